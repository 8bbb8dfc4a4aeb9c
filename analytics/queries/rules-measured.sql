-- Each rule by mode: firings, stopped payments, labels, and the fraud of the tenant that became known.
-- default tenant: default
SELECT
    r.rule_id AS rule_id,
    r.mode AS mode,
    r.fired AS fired,
    r.stopped AS stopped,
    r.labelled AS labelled,
    r.fraud AS fraud,
    r.genuine AS genuine,
    (SELECT count() FROM v_decisions_labelled WHERE tenant_id = {tenant:String} AND is_fraud) AS known_fraud,
    ifNull(toFloat64(r.fraud_usd), 0) AS fraud_usd,
    toUnixTimestamp64Milli(r.last_fired) AS last_fired_ms
FROM v_rule_performance AS r
WHERE r.tenant_id = {tenant:String}
ORDER BY fired DESC, rule_id, mode
