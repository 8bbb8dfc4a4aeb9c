-- What is or was tried: decisions behind which each challenger was asked, and how often it agreed.
-- default tenant: default
SELECT
    kind,
    hash,
    count() AS events,
    countIf(outcome = live_outcome) AS agreed,
    countIf(outcome > live_outcome) AS stricter,
    countIf(outcome < live_outcome) AS looser,
    toUnixTimestamp64Milli(min(event_time)) AS first_event_ms,
    toUnixTimestamp64Milli(max(event_time)) AS last_event_ms
FROM shadow_decisions FINAL
WHERE tenant_id = {tenant:String}
GROUP BY kind, hash
ORDER BY max(recorded_at) DESC, hash
