-- The rules that fired on one decision, in order of priority.
-- default tenant: default
SELECT rule_id, reason_code, severity, score, floor, mode, message
FROM rule_hits FINAL
WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}
ORDER BY position
