-- Time to answer and time until a decision was in the ledger, by minute and door.
-- default tenant: default
-- default minutes: 60
SELECT minute, door, decisions, answer_p50_ms, answer_p99_ms, recorded_after_p50_ms, recorded_after_p99_ms
FROM v_latency
WHERE tenant_id = {tenant:String} AND minute >= now() - INTERVAL {minutes:UInt32} MINUTE
ORDER BY minute, door
