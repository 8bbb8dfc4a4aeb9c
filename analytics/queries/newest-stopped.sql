-- The payments that were challenged or denied last.
-- default tenant: default
-- default limit: 20
SELECT
    d.decision_id AS decision_id,
    toUnixTimestamp64Milli(d.event_time) AS event_time_ms,
    toString(d.outcome) AS outcome,
    d.score AS score,
    t.card_id AS card_id,
    t.merchant_id AS merchant_id,
    t.amount_minor AS amount_minor,
    t.currency_exponent AS currency_exponent,
    t.currency AS currency,
    t.scenario AS scenario
FROM
(
    SELECT * FROM decisions FINAL
    WHERE tenant_id = {tenant:String} AND outcome != 'ALLOW'
    ORDER BY event_time DESC, decision_id
    LIMIT {limit:UInt32}
) AS d
INNER JOIN (SELECT * FROM transactions FINAL WHERE tenant_id = {tenant:String}) AS t ON t.decision_id = d.decision_id
ORDER BY event_time_ms DESC, decision_id
