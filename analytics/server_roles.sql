-- For a ClickHouse server of your own, run once by its administrator; the embedded engine has the same two accounts without it.
-- Put passwords in the place of <…>, and give them to FraudGuard as FRAUDGUARD_CLICKHOUSE_PASSWORD and
-- FRAUDGUARD_CLICKHOUSE_READER_PASSWORD.

CREATE DATABASE IF NOT EXISTS fraud;

CREATE USER IF NOT EXISTS fraudguard IDENTIFIED WITH sha256_password BY '<writer>';

GRANT SELECT, INSERT, CREATE TABLE, CREATE VIEW, DROP VIEW, ALTER ON fraud.* TO fraudguard;

CREATE SETTINGS PROFILE IF NOT EXISTS fraud_reader SETTINGS
    readonly = 2,
    max_result_rows = 1000000 MAX 1000000,
    max_execution_time = 30 MAX 30,
    max_memory_usage = 1000000000 MAX 1000000000,
    max_threads = 2 MAX 2;

CREATE ROLE IF NOT EXISTS fraud_reader SETTINGS PROFILE 'fraud_reader';

GRANT SELECT ON fraud.* TO fraud_reader;

CREATE USER IF NOT EXISTS analyst IDENTIFIED WITH sha256_password BY '<reader>' DEFAULT ROLE fraud_reader;

GRANT fraud_reader TO analyst;
