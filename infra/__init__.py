"""Run and supervise the local stack (Kafka, Flink, Redis, schema registry) as plain processes; no business logic lives here."""
