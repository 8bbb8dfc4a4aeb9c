-- How long the API took to answer, and the ledger to hold a decision after its event, by minute.
-- default tenant: default
-- default minutes: 60
SELECT
    toUnixTimestamp(toStartOfMinute(recorded_at)) * 1000 AS minute_ms,
    quantileExactOrNull(0.5)(latency_ms) AS answer_p50_ms,
    quantileExactOrNull(0.99)(latency_ms) AS answer_p99_ms,
    quantileExact(0.5)(toUnixTimestamp64Milli(recorded_at) - toUnixTimestamp64Milli(event_time)) / 1000 AS recorded_after_p50_s
FROM decisions FINAL
WHERE tenant_id = {tenant:String} AND recorded_at >= now() - INTERVAL {minutes:UInt32} MINUTE
GROUP BY minute_ms
ORDER BY minute_ms
