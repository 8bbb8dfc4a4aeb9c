-- Decisions of each outcome by the minute in which the ledger took them.
-- default tenant: default
-- default minutes: 60
SELECT
    toUnixTimestamp(toStartOfMinute(recorded_at)) * 1000 AS minute_ms,
    countIf(outcome = 'ALLOW') AS allowed,
    countIf(outcome = 'CHALLENGE') AS challenged,
    countIf(outcome = 'DENY') AS denied,
    countIf(isNotNull(degraded)) AS degraded
FROM decisions FINAL
WHERE tenant_id = {tenant:String} AND recorded_at >= now() - INTERVAL {minutes:UInt32} MINUTE
GROUP BY minute_ms
ORDER BY minute_ms
