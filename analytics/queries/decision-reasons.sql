-- Why one decision was made: the rules that fired, then what each feature added to the model's score.
-- default tenant: default
SELECT kind, what, value, contribution
FROM
(
    SELECT 'rule' AS kind, concat(rule_id, ': ', message) AS what, NULL AS value, toNullable(score) AS contribution, 0 AS rank
    FROM rule_hits FINAL
    WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}
    UNION ALL
    SELECT 'feature', feature, toNullable(value), toNullable(contribution), 1
    FROM reasons FINAL
    WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}
)
ORDER BY rank, abs(contribution) DESC
