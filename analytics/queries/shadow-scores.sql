-- Quantiles (10, 50, 90, 99 %) of a challenger's scores and of those of the decisions, and how far they are from each other.
-- default tenant: default
SELECT
    quantilesExact(0.1, 0.5, 0.9, 0.99)(score) AS tried,
    quantilesExact(0.1, 0.5, 0.9, 0.99)(live_score) AS live,
    quantilesExact(0.1, 0.5, 0.9, 0.99)(abs(score - live_score)) AS apart
FROM shadow_decisions FINAL
WHERE tenant_id = {tenant:String} AND hash = {challenger:String}
HAVING count() > 0
