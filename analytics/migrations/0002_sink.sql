-- Where the sink goes on, and what it could not read.  Both stay: an offset that expired would make it begin again.

CREATE TABLE sink_offsets
(
    topic        LowCardinality(String),
    topic_id     LowCardinality(String) COMMENT 'a topic that was made anew begins at 0 again, and is another one',
    partition    Int32,
    next_offset  Int64,
    saved_at     DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (topic, topic_id, partition);

CREATE TABLE sink_rejects
(
    topic        LowCardinality(String),
    topic_id     LowCardinality(String),
    partition    Int32,
    offset       Int64,
    code         LowCardinality(String),
    detail       String,
    bytes        UInt32 COMMENT 'its length; what it holds may be anybody''s, and stays in Kafka',
    recorded_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, topic_id, partition, offset);
