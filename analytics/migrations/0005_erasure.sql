-- Who was erased, and which decisions went with them, so that a record that is read again does not bring them back.  Neither table
-- names anybody: a subject is a hash, a decision's id is one already.  Kafka keeps its records 7 days; 90 are as everywhere here.

CREATE TABLE erasures
(
    tenant_id     LowCardinality(String),
    kind          LowCardinality(String) COMMENT 'card, user, device or ip',
    subject       Int64 COMMENT 'fraud.events.hash64 of the key of the subject''s state',
    seq           Int64 COMMENT 'number of the erasure in the log of the subject: what has a lower one is gone',
    requested_at  DateTime64(3, 'UTC'),
    recorded_at   DateTime64(3, 'UTC'),
    version       UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(recorded_at)
ORDER BY (tenant_id, kind, subject, seq)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE erased_decisions
(
    tenant_id    LowCardinality(String),
    decision_id  String,
    until        UInt64 COMMENT 'rows of this version and of those before it are gone; a payment made again afterwards has a later one',
    erased_at    DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree(until)
ORDER BY (tenant_id, decision_id)
TTL erased_at + INTERVAL 90 DAY;
