-- Of the fraud that became known, how much was stopped, by scenario.
-- default tenant: default
-- default hours: 24
SELECT ifNull(nullIf(d.scenario, ''), '(not named)') AS kind, count() AS fraud, countIf(d.outcome != 'ALLOW') AS stopped
FROM v_decisions_labelled AS d
WHERE d.tenant_id = {tenant:String} AND d.recorded_at >= now() - INTERVAL {hours:UInt32} HOUR AND d.is_fraud
GROUP BY kind
ORDER BY kind
