-- The features of one decision as served, by the names of its own catalogue, with what each added to the model's raw score.
-- default tenant: default
SELECT n.name AS feature, d.features[n.position] AS value, r.contribution AS contribution
FROM (SELECT catalogue_version, features FROM decisions FINAL WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}) AS d
INNER JOIN feature_names AS n FINAL ON n.catalogue_version = d.catalogue_version
LEFT JOIN
(
    SELECT position, toNullable(contribution) AS contribution
    FROM reasons FINAL
    WHERE tenant_id = {tenant:String} AND decision_id = {decision:String}
) AS r ON r.position + 1 = n.position
ORDER BY n.position
