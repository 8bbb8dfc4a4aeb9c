-- What the committed ledger says, one row a decision in each table.
--
-- Every table is a ReplacingMergeTree by business key: whatever is written twice is read once with FINAL.  `version` is the broker's
-- append time, the same for the same record however often it is read.  Partitions are days of arrival and not of the event: a
-- replay of last year's history is kept 90 days too, and no insert touches more partitions than Kafka keeps days.

CREATE TABLE transactions
(
    tenant_id          LowCardinality(String),
    decision_id        String,
    transaction_id     String,
    event_time         DateTime64(3, 'UTC'),
    recorded_at        DateTime64(3, 'UTC'),
    card_id            String,
    merchant_id        String,
    user_id            Nullable(String),
    device_id          Nullable(String),
    amount_minor       Int64 COMMENT 'in minor units of the currency, exact',
    currency           LowCardinality(String),
    currency_exponent  UInt8 COMMENT '10 ** exponent minor units make one: 0 for JPY, 2 for EUR, 3 for KWD',
    amount             Decimal(38, 4) DEFAULT toDecimal128(amount_minor, 4) / [1, 10, 100, 1000, 10000][currency_exponent + 1],
    base_minor         Int64 COMMENT 'USD cents by the fixed table of rates, as the rules compare',
    amount_usd         Decimal(38, 2) DEFAULT toDecimal128(base_minor, 2) / 100,
    transaction_type   LowCardinality(String),
    channel            LowCardinality(Nullable(String)),
    declined           Bool,
    merchant_name      Nullable(String),
    merchant_mcc       Nullable(UInt16),
    merchant_country   LowCardinality(Nullable(String)),
    city               Nullable(String),
    country            LowCardinality(Nullable(String)),
    lat                Nullable(Float64),
    lon                Nullable(Float64),
    ip_hash            Nullable(String),
    ip_country         LowCardinality(Nullable(String)),
    ip_region          LowCardinality(Nullable(String)),
    ip_asn             Nullable(Int64),
    ip_lat             Nullable(Float64),
    ip_lon             Nullable(Float64),
    card_type          LowCardinality(Nullable(String)),
    card_country       LowCardinality(Nullable(String)),
    card_age_days      Nullable(Int32),
    billing_lat        Nullable(Float64),
    billing_lon        Nullable(Float64),
    billing_country    LowCardinality(Nullable(String)),
    batch_id           Nullable(String),
    known_fraud        Nullable(Bool) COMMENT 'truth of synthetic or historical data; never an input',
    scenario           LowCardinality(Nullable(String)) COMMENT 'synthetic scenario; never an input',
    version            UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, decision_id)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE decisions
(
    tenant_id          LowCardinality(String),
    decision_id        String,
    transaction_id     String,
    event_time         DateTime64(3, 'UTC'),
    recorded_at        DateTime64(3, 'UTC'),
    outcome            Enum8('ALLOW' = 0, 'CHALLENGE' = 1, 'DENY' = 2),
    score              Float64,
    model_score        Nullable(Float64),
    model_raw          Nullable(Float64),
    rules_score        Nullable(Float64),
    anomaly_score      Nullable(Float64),
    floor              LowCardinality(Nullable(String)),
    degraded           LowCardinality(Nullable(String)),
    late_event         Bool,
    model_sha256       LowCardinality(Nullable(String)),
    rule_set_hash      LowCardinality(Nullable(String)),
    catalogue_version  LowCardinality(String),
    code_version       LowCardinality(String),
    door               LowCardinality(String) COMMENT 'stream or api',
    features           Array(Float64) COMMENT 'as served, to the bit, in the order of feature_names; NaN is missing',
    entity_kinds       Array(LowCardinality(String)),
    entity_seqs        Array(Int64) COMMENT 'where the log of each entity stood with this event applied',
    served_kinds       Array(LowCardinality(String)),
    served_seqs        Array(Int64) COMMENT 'of the API: where each log stood that it read',
    blacklisted        Array(LowCardinality(String)),
    extra_names        Array(LowCardinality(String)) COMMENT 'features beyond the catalogue that the rules asked for',
    extra_values       Array(Float64) COMMENT 'of those, as served',
    contribution_base  Nullable(Float64),
    latency_ms         Nullable(Float64) COMMENT 'of the API; null on the stream',
    stream_score       Nullable(Float64) COMMENT 'of the API: the score that the stream came to',
    trace_id           Nullable(String),
    version            UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, decision_id)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE rule_hits
(
    tenant_id    LowCardinality(String),
    decision_id  String,
    position     UInt16 COMMENT 'in order of priority',
    event_time   DateTime64(3, 'UTC'),
    recorded_at  DateTime64(3, 'UTC'),
    rule_id      LowCardinality(String),
    reason_code  LowCardinality(String),
    severity     LowCardinality(String),
    score        Float64,
    floor        LowCardinality(Nullable(String)),
    mode         LowCardinality(String) COMMENT 'enabled or shadow',
    message      String COMMENT 'with the runtime values put in',
    version      UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, decision_id, position)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE reasons
(
    tenant_id     LowCardinality(String),
    decision_id   String,
    position      UInt16 COMMENT 'of the feature in its catalogue',
    recorded_at   DateTime64(3, 'UTC'),
    feature       LowCardinality(String),
    value         Float64 COMMENT 'as served',
    contribution  Float64 COMMENT 'what it added to model_raw',
    version       UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, decision_id, position)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE labels
(
    tenant_id         LowCardinality(String),
    decision_id       String,
    transaction_id    String,
    label_time        DateTime64(3, 'UTC') COMMENT 'when it became known',
    transaction_time  DateTime64(3, 'UTC'),
    recorded_at       DateTime64(3, 'UTC'),
    is_fraud          Bool,
    source            LowCardinality(String),
    version           UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, decision_id, label_time, source)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE feature_names
(
    catalogue_version  LowCardinality(String),
    position           UInt16 COMMENT 'in decisions.features, counted from 1 as arrays are here',
    name               LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (catalogue_version, position);
