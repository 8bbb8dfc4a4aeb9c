-- Counts by the hour, kept up to date by every insert.  A materialised view sees each inserted block, duplicates included, and
-- ReplacingMergeTree never tells it that it has dropped one: so the states hold *which* decisions there were, not how many.
-- They are kept by the day of arrival, as everything else: a replay of old history counts too.

CREATE TABLE decisions_hourly
(
    tenant_id    LowCardinality(String),
    recorded_on  Date,
    hour         DateTime('UTC'),
    outcome      Enum8('ALLOW' = 0, 'CHALLENGE' = 1, 'DENY' = 2),
    door         LowCardinality(String),
    decisions    AggregateFunction(uniqExact, UInt64),
    degraded     AggregateFunction(uniqExactIf, UInt64, UInt8)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(recorded_on)
ORDER BY (tenant_id, recorded_on, hour, outcome, door)
TTL recorded_on + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW decisions_hourly_feed TO decisions_hourly AS
SELECT
    tenant_id,
    toDate(recorded_at) AS recorded_on,
    toStartOfHour(toDateTime(event_time, 'UTC')) AS hour,
    outcome,
    door,
    uniqExactState(cityHash64(decision_id)) AS decisions,
    uniqExactIfState(cityHash64(decision_id), toUInt8(isNotNull(decisions.degraded))) AS degraded
FROM decisions
GROUP BY tenant_id, recorded_on, hour, outcome, door;

CREATE TABLE rule_hits_hourly
(
    tenant_id    LowCardinality(String),
    recorded_on  Date,
    hour         DateTime('UTC'),
    rule_id      LowCardinality(String),
    mode         LowCardinality(String),
    decisions    AggregateFunction(uniqExact, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(recorded_on)
ORDER BY (tenant_id, recorded_on, hour, rule_id, mode)
TTL recorded_on + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW rule_hits_hourly_feed TO rule_hits_hourly AS
SELECT
    tenant_id,
    toDate(recorded_at) AS recorded_on,
    toStartOfHour(toDateTime(event_time, 'UTC')) AS hour,
    rule_id,
    mode,
    uniqExactState(cityHash64(decision_id)) AS decisions
FROM rule_hits
GROUP BY tenant_id, recorded_on, hour, rule_id, mode;

CREATE VIEW v_decisions_hourly AS
SELECT
    tenant_id,
    hour,
    outcome,
    door,
    uniqExactMerge(decisions_hourly.decisions) AS decisions,
    uniqExactIfMerge(decisions_hourly.degraded) AS degraded
FROM decisions_hourly
GROUP BY tenant_id, hour, outcome, door;

CREATE VIEW v_rule_hits_hourly AS
SELECT tenant_id, hour, rule_id, mode, uniqExactMerge(rule_hits_hourly.decisions) AS decisions
FROM rule_hits_hourly
GROUP BY tenant_id, hour, rule_id, mode;
