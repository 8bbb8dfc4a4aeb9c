-- Merchants with fraud that became known, or with payments that were stopped.
-- default tenant: default
-- default hours: 24
SELECT
    d.merchant_id AS merchant_id,
    count() AS decisions,
    countIf(d.outcome != 'ALLOW') AS stopped,
    countIf(d.is_fraud) AS fraud,
    toFloat64(sumIf(d.amount_usd, d.is_fraud)) AS fraud_usd
FROM v_decisions_labelled AS d
WHERE d.tenant_id = {tenant:String} AND d.recorded_at >= now() - INTERVAL {hours:UInt32} HOUR
GROUP BY merchant_id
HAVING stopped > 0 OR fraud > 0
ORDER BY fraud DESC, stopped DESC, merchant_id
LIMIT 1000
