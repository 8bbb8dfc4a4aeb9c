-- Everything that is known of one card, oldest first: place, money, velocity, what was decided.
-- default tenant: default
SELECT v.event_time, v.merchant_id, v.country, v.amount_usd, v.card_count_10_min, v.card_count_1_h, v.card_merchants_1_h, d.outcome, d.score
FROM v_velocity AS v
INNER JOIN decisions AS d FINAL ON d.tenant_id = v.tenant_id AND d.decision_id = v.decision_id
WHERE v.tenant_id = {tenant:String} AND v.card_id = {card:String}
ORDER BY v.event_time
