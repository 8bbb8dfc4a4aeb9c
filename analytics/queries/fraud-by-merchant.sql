-- Merchants with the most fraud that became known: share, its lower bound, money.
-- default tenant: default
-- default limit: 20
SELECT merchant_id, decisions, fraud, round(fraud_rate, 4) AS fraud_rate, round(fraud_rate_at_least, 4) AS at_least, fraud_usd, usd
FROM v_merchant_risk
WHERE tenant_id = {tenant:String} AND fraud > 0
ORDER BY fraud_rate_at_least DESC
LIMIT {limit:UInt32}
