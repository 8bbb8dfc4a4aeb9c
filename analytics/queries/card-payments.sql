-- Payments of a card in the month before a moment and the day after it, newest first: when, where, how much, what was decided.
-- default tenant: default
-- default limit: 50
SELECT
    d.decision_id AS decision_id,
    toUnixTimestamp64Milli(t.event_time) AS event_time_ms,
    t.merchant_id AS merchant_id,
    t.city AS city,
    t.country AS country,
    t.amount_minor AS amount_minor,
    t.currency_exponent AS currency_exponent,
    t.currency AS currency,
    t.lat AS lat,
    t.lon AS lon,
    toString(d.outcome) AS outcome,
    d.score AS score
FROM
(
    SELECT * FROM transactions FINAL
    WHERE tenant_id = {tenant:String} AND card_id = {card:String}
        AND event_time >= fromUnixTimestamp64Milli({at_ms:Int64}) - INTERVAL 30 DAY
        AND event_time <= fromUnixTimestamp64Milli({at_ms:Int64}) + INTERVAL 1 DAY
    ORDER BY event_time DESC, decision_id
    LIMIT {limit:UInt32}
) AS t
INNER JOIN (SELECT decision_id, outcome, score FROM decisions FINAL WHERE tenant_id = {tenant:String}) AS d ON d.decision_id = t.decision_id
ORDER BY event_time_ms DESC, decision_id
