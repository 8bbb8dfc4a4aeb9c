-- What challengers would have decided: of each decision one row for each rule set or model that was tried beside it.

CREATE TABLE shadow_decisions
(
    tenant_id           LowCardinality(String),
    decision_id         String,
    transaction_id      String,
    event_time          DateTime64(3, 'UTC'),
    recorded_at         DateTime64(3, 'UTC'),
    kind                LowCardinality(String) COMMENT 'rules or model: which side the challenger took',
    hash                LowCardinality(String) COMMENT 'of the rule set or the model that was tried',
    outcome             Enum8('ALLOW' = 0, 'CHALLENGE' = 1, 'DENY' = 2) COMMENT 'what the caller would have been told',
    score               Float64,
    model_score         Nullable(Float64),
    rules_score         Nullable(Float64),
    floor               LowCardinality(Nullable(String)),
    rule_ids            Array(LowCardinality(String)) COMMENT 'that fired, in order of priority',
    rule_modes          Array(LowCardinality(String)) COMMENT 'of those: enabled or shadow',
    rule_messages       Array(String) COMMENT 'of those, with the runtime values put in',
    live_outcome        Enum8('ALLOW' = 0, 'CHALLENGE' = 1, 'DENY' = 2) COMMENT 'what the decision said',
    live_score          Float64,
    live_model_sha256   LowCardinality(Nullable(String)),
    live_rule_set_hash  LowCardinality(Nullable(String)),
    door                LowCardinality(String) COMMENT 'stream or api: who decided',
    version             UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, decision_id, kind, hash)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE VIEW v_shadow AS
SELECT
    s.tenant_id AS tenant_id,
    s.decision_id AS decision_id,
    s.event_time AS event_time,
    s.recorded_at AS recorded_at,
    s.kind AS kind,
    s.hash AS hash,
    s.outcome AS outcome,
    s.live_outcome AS live_outcome,
    s.score AS score,
    s.live_score AS live_score,
    s.rule_ids AS rule_ids,
    s.rule_messages AS rule_messages,
    s.door AS door,
    d.card_id AS card_id,
    d.merchant_id AS merchant_id,
    d.amount_usd AS amount_usd,
    d.scenario AS scenario,
    d.is_fraud AS is_fraud
FROM shadow_decisions AS s FINAL
INNER JOIN v_decisions_labelled AS d ON d.tenant_id = s.tenant_id AND d.decision_id = s.decision_id;
