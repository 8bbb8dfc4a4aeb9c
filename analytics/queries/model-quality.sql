-- The model against what became known, by day: recall, precision, area under the curve, calibration.
-- default tenant: default
SELECT day, left(ifNull(model_sha256, ''), 12) AS model, labelled, fraud, recall, precision, false_positive_rate, roc_auc, brier_score
FROM v_model_quality
WHERE tenant_id = {tenant:String}
ORDER BY day, model
