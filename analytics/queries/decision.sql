-- One decision with its payment and what became known of it.
-- default tenant: default
SELECT
    d.decision_id AS decision_id,
    d.transaction_id AS transaction_id,
    toUnixTimestamp64Milli(d.event_time) AS event_time_ms,
    toUnixTimestamp64Milli(d.recorded_at) AS recorded_ms,
    toString(d.outcome) AS outcome,
    d.score AS score,
    d.model_score AS model_score,
    d.model_raw AS model_raw,
    d.rules_score AS rules_score,
    d.anomaly_score AS anomaly_score,
    d.floor AS floor,
    d.degraded AS degraded,
    d.late_event AS late_event,
    d.model_sha256 AS model_sha256,
    d.rule_set_hash AS rule_set_hash,
    d.catalogue_version AS catalogue_version,
    d.code_version AS code_version,
    d.door AS door,
    d.latency_ms AS latency_ms,
    d.stream_score AS stream_score,
    d.trace_id AS trace_id,
    d.contribution_base AS contribution_base,
    d.blacklisted AS blacklisted,
    d.extra_names AS extra_names,
    d.extra_values AS extra_values,
    t.card_id AS card_id,
    t.merchant_id AS merchant_id,
    t.merchant_name AS merchant_name,
    t.merchant_mcc AS merchant_mcc,
    t.user_id AS user_id,
    t.device_id AS device_id,
    t.amount_minor AS amount_minor,
    t.currency_exponent AS currency_exponent,
    t.currency AS currency,
    toFloat64(t.amount_usd) AS amount_usd,
    t.channel AS channel,
    t.city AS city,
    t.country AS country,
    t.ip_country AS ip_country,
    t.card_country AS card_country,
    t.scenario AS scenario,
    l.known AS is_fraud,
    l.label_source AS label_source,
    l.labelled_ms AS labelled_ms
FROM (SELECT * FROM decisions FINAL WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}) AS d
INNER JOIN (SELECT * FROM transactions FINAL WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}) AS t
    ON t.decision_id = d.decision_id
LEFT JOIN
(
    SELECT
        decision_id,
        toNullable(is_fraud) AS known,
        toNullable(label_source) AS label_source,
        toNullable(toUnixTimestamp64Milli(labelled_at)) AS labelled_ms
    FROM v_labels
    WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}
) AS l ON l.decision_id = d.decision_id
