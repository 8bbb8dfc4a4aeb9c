-- How often each rule fired for a challenger, and how often in the decisions that were made, on the same payments.
-- default tenant: default
WITH
    asked AS
    (
        SELECT decision_id, rule_ids, is_fraud FROM v_shadow WHERE tenant_id = {tenant:String} AND hash = {challenger:String}
    ),
    live AS
    (
        SELECT decision_id, groupUniqArray(toString(rule_id)) AS rule_ids
        FROM rule_hits FINAL
        WHERE tenant_id = {tenant:String} AND decision_id IN (SELECT decision_id FROM asked)
        GROUP BY decision_id
    ),
    beside AS
    (
        SELECT
            arrayMap(rule -> toString(rule), asked.rule_ids) AS tried,
            live.rule_ids AS decided,
            arrayJoin(arrayDistinct(arrayConcat(tried, decided))) AS rule_id,
            asked.is_fraud AS is_fraud
        FROM asked
        LEFT JOIN live ON live.decision_id = asked.decision_id
    )
SELECT
    rule_id,
    countIf(has(tried, rule_id)) AS fired,
    countIf(has(decided, rule_id)) AS fired_live,
    countIf(has(tried, rule_id) AND is_fraud) AS fraud,
    countIf(has(tried, rule_id) AND NOT is_fraud) AS genuine
FROM beside
GROUP BY rule_id
ORDER BY fired DESC, rule_id
