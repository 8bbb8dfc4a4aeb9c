-- What a challenger would have decided beside what was decided, with labels and money.
-- default tenant: default
SELECT
    toString(live_outcome) AS live,
    toString(outcome) AS tried,
    count() AS events,
    countIf(is_fraud) AS fraud,
    countIf(NOT is_fraud) AS genuine,
    toFloat64(sum(amount_usd)) AS usd,
    toFloat64(sumIf(amount_usd, is_fraud)) AS fraud_usd,
    toFloat64(sumIf(amount_usd, NOT is_fraud)) AS genuine_usd
FROM v_shadow
WHERE tenant_id = {tenant:String} AND hash = {challenger:String}
GROUP BY live_outcome, outcome
ORDER BY live_outcome, outcome
