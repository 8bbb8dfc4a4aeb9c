-- What was decided since a moment, by scenario, with how much was stopped and what became known later.
-- default since: 1970-01-01 00:00:00
SELECT
    ifNull(nullIf(scenario, ''), '(none)') AS scenario,
    count() AS decisions,
    countIf(outcome = 'ALLOW') AS allowed,
    countIf(outcome = 'CHALLENGE') AS challenged,
    countIf(outcome = 'DENY') AS denied,
    countIf(is_fraud) AS labelled_fraud,
    round(avg(score), 3) AS mean_score,
    sum(amount_usd) AS usd
FROM v_decisions_labelled
WHERE event_time >= {since:DateTime64(3, 'UTC')}
GROUP BY scenario
ORDER BY decisions DESC
