-- How often each rule fired, and how much of that was fraud.
-- default tenant: default
SELECT rule_id, mode, fired, stopped, labelled, fraud, genuine, round(precision, 4) AS precision, round(recall, 4) AS recall, fraud_usd
FROM v_rule_performance
WHERE tenant_id = {tenant:String}
ORDER BY fired DESC
