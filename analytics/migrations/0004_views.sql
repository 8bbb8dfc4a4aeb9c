-- What analysts ask.  Every view reads with FINAL, so what was written twice counts once, merged already or not.

CREATE VIEW v_labels AS
SELECT
    tenant_id,
    decision_id,
    argMax(is_fraud, (label_time, version)) AS is_fraud,
    argMax(source, (label_time, version)) AS label_source,
    max(label_time) AS labelled_at,
    count() AS labels
FROM labels FINAL
GROUP BY tenant_id, decision_id;

CREATE VIEW v_decisions_labelled AS
SELECT
    d.tenant_id AS tenant_id,
    d.decision_id AS decision_id,
    d.transaction_id AS transaction_id,
    d.event_time AS event_time,
    d.recorded_at AS recorded_at,
    d.outcome AS outcome,
    d.score AS score,
    d.model_score AS model_score,
    d.rules_score AS rules_score,
    d.degraded AS degraded,
    d.door AS door,
    d.model_sha256 AS model_sha256,
    d.rule_set_hash AS rule_set_hash,
    d.latency_ms AS latency_ms,
    t.card_id AS card_id,
    t.user_id AS user_id,
    t.merchant_id AS merchant_id,
    t.merchant_mcc AS merchant_mcc,
    t.merchant_country AS merchant_country,
    t.country AS country,
    t.amount AS amount,
    t.amount_minor AS amount_minor,
    t.currency AS currency,
    t.amount_usd AS amount_usd,
    t.scenario AS scenario,
    l.is_fraud AS is_fraud,
    l.label_source AS label_source,
    l.labelled_at AS labelled_at
FROM decisions AS d FINAL
INNER JOIN transactions AS t FINAL ON t.tenant_id = d.tenant_id AND t.decision_id = d.decision_id
LEFT JOIN
(
    SELECT tenant_id, decision_id, toNullable(is_fraud) AS is_fraud, toNullable(label_source) AS label_source, toNullable(labelled_at) AS labelled_at
    FROM v_labels
) AS l ON l.tenant_id = d.tenant_id AND l.decision_id = d.decision_id;

CREATE VIEW v_rule_performance AS
SELECT
    h.tenant_id AS tenant_id,
    h.rule_id AS rule_id,
    h.mode AS mode,
    count() AS fired,
    countIf(d.outcome != 'ALLOW') AS stopped,
    countIf(isNotNull(d.is_fraud)) AS labelled,
    countIf(d.is_fraud) AS fraud,
    labelled - fraud AS genuine,
    if(labelled = 0, NULL, fraud / labelled) AS precision,
    if(any(f.fraud) = 0, NULL, fraud / any(f.fraud)) AS recall,
    sumIf(d.amount_usd, d.is_fraud) AS fraud_usd,
    min(d.event_time) AS first_fired,
    max(d.event_time) AS last_fired
FROM (SELECT DISTINCT tenant_id, decision_id, rule_id, mode FROM rule_hits FINAL) AS h
INNER JOIN v_decisions_labelled AS d ON d.tenant_id = h.tenant_id AND d.decision_id = h.decision_id
LEFT JOIN (SELECT tenant_id, countIf(is_fraud) AS fraud FROM v_decisions_labelled GROUP BY tenant_id) AS f ON f.tenant_id = h.tenant_id
GROUP BY tenant_id, rule_id, mode;

CREATE VIEW v_model_quality AS
SELECT
    tenant_id,
    model_sha256,
    toDate(event_time) AS day,
    count() AS labelled,
    countIf(is_fraud) AS fraud,
    countIf(is_fraud AND outcome != 'ALLOW') AS caught,
    countIf(NOT is_fraud AND outcome != 'ALLOW') AS stopped_genuine,
    if(fraud = 0, NULL, caught / fraud) AS recall,
    if(caught + stopped_genuine = 0, NULL, caught / (caught + stopped_genuine)) AS precision,
    if(labelled = fraud, NULL, stopped_genuine / (labelled - fraud)) AS false_positive_rate,
    if(fraud = 0 OR fraud = labelled, NULL, arrayROCAUC(groupArray(assumeNotNull(model_score)), groupArray(toUInt8(assumeNotNull(is_fraud))))) AS roc_auc,
    avg(pow(model_score - toUInt8(is_fraud), 2)) AS brier_score
FROM v_decisions_labelled
WHERE isNotNull(is_fraud) AND isNotNull(model_score)
GROUP BY tenant_id, model_sha256, day;

CREATE VIEW v_velocity AS
SELECT
    tenant_id,
    card_id,
    decision_id,
    event_time,
    merchant_id,
    country,
    amount_usd,
    count() OVER in_10_min AS card_count_10_min,
    count() OVER in_1_h AS card_count_1_h,
    uniqExact(merchant_id) OVER in_1_h AS card_merchants_1_h,
    uniqExact(country) OVER in_1_h AS card_countries_1_h,
    sum(amount_usd) OVER in_1_h AS card_usd_1_h
FROM (SELECT *, toUnixTimestamp64Milli(event_time) AS event_time_ms FROM transactions FINAL)
WINDOW
    in_10_min AS (PARTITION BY tenant_id, card_id ORDER BY event_time_ms RANGE BETWEEN 599999 PRECEDING AND CURRENT ROW),
    in_1_h AS (PARTITION BY tenant_id, card_id ORDER BY event_time_ms RANGE BETWEEN 3599999 PRECEDING AND CURRENT ROW);

CREATE VIEW v_merchant_risk AS
SELECT
    tenant_id,
    merchant_id,
    count() AS decisions,
    countIf(outcome = 'DENY') AS denied,
    countIf(outcome = 'CHALLENGE') AS challenged,
    countIf(isNotNull(is_fraud)) AS labelled,
    countIf(is_fraud) AS fraud,
    fraud / decisions AS fraud_rate,
    -- Wilson's interval at 95 %: a merchant with one fraud in two payments is not riskier than one with 40 in 100
    (fraud_rate + 1.9208 / decisions - 1.96 * sqrt((fraud_rate * (1 - fraud_rate) + 0.9604 / decisions) / decisions)) / (1 + 3.8416 / decisions) AS fraud_rate_at_least,
    sum(amount_usd) AS usd,
    sumIf(amount_usd, is_fraud) AS fraud_usd,
    avg(score) AS mean_score
FROM v_decisions_labelled
GROUP BY tenant_id, merchant_id;

CREATE VIEW v_latency AS
SELECT
    tenant_id,
    door,
    toStartOfMinute(recorded_at) AS minute,
    count() AS decisions,
    quantileExact(0.5)(latency_ms) AS answer_p50_ms,
    quantileExact(0.99)(latency_ms) AS answer_p99_ms,
    quantileExact(0.5)(toUnixTimestamp64Milli(recorded_at) - toUnixTimestamp64Milli(event_time)) AS recorded_after_p50_ms,
    quantileExact(0.99)(toUnixTimestamp64Milli(recorded_at) - toUnixTimestamp64Milli(event_time)) AS recorded_after_p99_ms
FROM decisions FINAL
GROUP BY tenant_id, door, minute;
