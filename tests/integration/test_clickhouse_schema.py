"""Migrations, and what analysts read: right numbers, the same numbers when everything was written twice, and every saved query."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httpclient import HttpClient

from analytics.connection import connect
from analytics.ledger_rows import LedgerRows, Value
from analytics.queries import SavedQuery, UnknownQuery, load_queries, saved_query
from analytics.schema import Migration, SchemaChanged, load_migrations, migrate
from analytics.store import Store
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from serving.records import FiredRule, LabelApplied
from tests import wire_samples as wire
from tests.clickhouse_engine import ClickHouseEngine

MINUTE_MS = 60_000
RECORDED_MS = time.time_ns() // 1_000_000  # what is older than 90 days would be merged away
VIEWS = (
    *("v_decisions_labelled", "v_rule_performance", "v_model_quality", "v_velocity", "v_merchant_risk", "v_latency", "v_features"),
    *("v_decisions_hourly", "v_rule_hits_hourly", "v_labels", "v_shadow"),
)


def decided(number: int, *, amount_minor: int = 1_000, currency: str = "EUR", minute: int = 0, fraud: bool = False, **more: Any) -> Any:
    event_time_ms = wire.NOW_MS - wire.NOW_MS % 3_600_000 + minute * MINUTE_MS
    transaction = wire.transaction(
        transaction_id=f"t-{number}", tenant_id="views", amount_minor=amount_minor, currency=currency, event_time_ms=event_time_ms, **more
    )
    rules = [FiredRule("burst", "VELOCITY", "high", 0.6, None, "enabled", "seen")] if number % 2 == 0 else []
    return wire.decision(
        decision_id=decision_id("views", f"t-{number}"),
        tenant_id="views",
        transaction_id=f"t-{number}",
        event_time_ms=event_time_ms,
        transaction=transaction,
        outcome="DENY" if fraud or number == 2 else "ALLOW",
        model_score=0.9 if fraud else 0.1,
        rules=rules,
        features=np.arange(CATALOGUE.size, dtype=np.float64),
        catalogue_version=CATALOGUE.version,
        latency_ms=float(number),
        door="api",
    )


# Four payments of one card within 70 minutes; 0 and 2 are known to be fraud, 1 to be genuine, nobody knows of 3.
DECISIONS = [
    decided(0, amount_minor=1_250, fraud=True),
    decided(1, amount_minor=100, currency="JPY", minute=5, merchant_id="m-2", country="DE"),
    decided(2, amount_minor=1_234, currency="KWD", minute=30),
    decided(3, minute=70),
]
LABELS = [("t-0", True, 10), ("t-1", True, 10), ("t-1", False, 20), ("t-2", True, 10)]


def write(engine: ClickHouseEngine, token: str) -> None:
    codec, rows, store = wire.codec(), LedgerRows(wire.codec()), Store(engine.settings)
    values = [Value(0, i, RECORDED_MS + i, codec.encode_decision(one)) for i, one in enumerate(DECISIONS)]
    labels = [LabelApplied(transaction, "views", known, when, 0, "chargeback", []) for transaction, known, when in LABELS]
    store.write(rows.decisions(values).tables, token)
    shadows = [
        replace(wire.SAMPLES["shadow_decision"], tenant_id="views", decision_id=one.decision_id, live_outcome=one.outcome)
        for one in DECISIONS
    ]
    values = [Value(0, i, RECORDED_MS + i, codec.encode_shadow_decision(one)) for i, one in enumerate(shadows)]
    store.write(rows.shadows(values).tables, token)
    store.write(rows.labels([Value(0, i, RECORDED_MS, codec.encode_label_applied(one)) for i, one in enumerate(labels)]).tables, token)
    store.close()


@pytest.fixture(scope="module")
def written(clickhouse: ClickHouseEngine) -> Iterator[HttpClient]:
    """The decisions once, with nothing merged."""
    with connect(clickhouse.settings) as client:
        client.command("SYSTEM STOP MERGES")
        write(clickhouse, "once")
        yield client
        client.command("SYSTEM START MERGES")


def rows(client: HttpClient, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(sql).result_rows]


def seen(client: HttpClient) -> dict[str, list[str]]:
    """What every view says of the tenant; NaN equals NaN."""
    return {view: sorted(map(repr, rows(client, f"SELECT * FROM {view} WHERE tenant_id = 'views'"))) for view in VIEWS}


def test_what_is_written_again_changes_no_view_and_doubles_a_plain_table(clickhouse: ClickHouseEngine, written: HttpClient) -> None:
    before = seen(written)
    assert all(before.values())
    written.command("CREATE TABLE plain AS transactions ENGINE = MergeTree ORDER BY decision_id")
    written.command("INSERT INTO plain SELECT * FROM transactions FINAL WHERE tenant_id = 'views'")
    once = rows(written, "SELECT count(), sum(amount_minor) FROM plain")
    assert once == rows(written, "SELECT count(), sum(amount_minor) FROM transactions FINAL WHERE tenant_id = 'views'")
    write(clickhouse, "twice")
    assert rows(written, "SELECT count() FROM transactions WHERE tenant_id = 'views'") == [(2 * len(DECISIONS),)]
    assert seen(written) == before
    written.command("INSERT INTO plain SELECT * FROM transactions FINAL WHERE tenant_id = 'views' SETTINGS insert_deduplicate = 0")
    assert rows(written, "SELECT count(), sum(amount_minor) FROM plain") == [tuple(2 * value for value in once[0])]
    written.command("DROP TABLE plain")


def test_a_batch_under_its_own_token_is_not_even_written(clickhouse: ClickHouseEngine, written: HttpClient) -> None:
    before = rows(written, "SELECT count() FROM decisions WHERE tenant_id = 'views'")
    write(clickhouse, "once")
    assert rows(written, "SELECT count() FROM decisions WHERE tenant_id = 'views'") == before


def test_money_is_exact_in_every_currency(written: HttpClient) -> None:
    found = rows(written, "SELECT currency, amount, amount_minor FROM transactions FINAL WHERE tenant_id = 'views' ORDER BY transaction_id")
    assert found == [
        ("EUR", Decimal("12.5000"), 1_250),
        ("JPY", Decimal("100.0000"), 100),
        ("KWD", Decimal("1.2340"), 1_234),
        ("EUR", Decimal("10.0000"), 1_000),
    ]


def test_the_last_label_counts(written: HttpClient) -> None:
    found = rows(written, "SELECT transaction_id, is_fraud FROM v_decisions_labelled WHERE tenant_id = 'views' ORDER BY transaction_id")
    assert found == [("t-0", True), ("t-1", False), ("t-2", True), ("t-3", None)]


def test_a_rules_performance_is_counted_over_what_is_known(written: HttpClient) -> None:
    columns = "rule_id, fired, stopped, labelled, fraud, genuine, precision, recall"
    assert rows(written, f"SELECT {columns} FROM v_rule_performance WHERE tenant_id = 'views'") == [("burst", 2, 2, 2, 2, 0, 1.0, 1.0)]


def test_a_models_quality(written: HttpClient) -> None:
    columns = "labelled, fraud, caught, stopped_genuine, recall, precision, false_positive_rate, roc_auc, brier_score"
    (found,) = rows(written, f"SELECT {columns} FROM v_model_quality WHERE tenant_id = 'views'")
    assert found[:7] == (3, 2, 2, 0, 1.0, 1.0, 0.0)
    assert found[7] == 0.75  # 0.9 and 0.1 are fraud, 0.1 is not: one pair in order, one tie
    assert math.isclose(found[8], (0.01 + 0.81 + 0.01) / 3)


def test_velocity_counts_the_window_with_the_event_itself(written: HttpClient) -> None:
    columns = "card_count_10_min, card_count_1_h, card_merchants_1_h, card_countries_1_h"
    found = rows(written, f"SELECT {columns} FROM v_velocity WHERE tenant_id = 'views' ORDER BY event_time")
    assert found == [(1, 1, 1, 1), (2, 2, 2, 2), (1, 3, 2, 2), (1, 2, 1, 1)]


def test_a_merchants_risk_has_a_lower_bound(written: HttpClient) -> None:
    columns = "merchant_id, decisions, denied, labelled, fraud, fraud_rate, round(fraud_rate_at_least, 4)"
    found = rows(written, f"SELECT {columns} FROM v_merchant_risk WHERE tenant_id = 'views' ORDER BY merchant_id")
    assert found == [("m-2", 1, 0, 1, 0, 0.0, 0.0), ("merchant-00042", 3, 2, 2, 2, 2 / 3, 0.2077)]


def test_features_have_their_names(written: HttpClient) -> None:
    name = CATALOGUE.names[7]
    assert rows(written, f"SELECT DISTINCT {name} FROM v_features WHERE tenant_id = 'views'") == [(7.0,)]


@pytest.mark.parametrize("query", load_queries(), ids=lambda query: query.name)
@pytest.mark.usefixtures("written")
def test_every_saved_query_runs_as_a_reader(clickhouse: ClickHouseEngine, query: SavedQuery) -> None:
    mine = {"tenant": "views", "card": "card-000123", "decision": DECISIONS[0].decision_id, "minutes": "100000000"}
    mine |= {"at_ms": str(wire.NOW_MS), "challenger": wire.SAMPLES["shadow_decision"].hash}
    given = {name: value for name, value in mine.items() if name in query.parameters}
    with connect(clickhouse.settings, reads_only=True) as reader:
        found = reader.query(query.sql, parameters=query.values(given))
    assert found.result_rows
    assert query.summary.endswith(".")


def test_a_saved_query_tells_what_it_asks_for() -> None:
    with pytest.raises(UnknownQuery, match="card=…"):
        saved_query("card-history").values({})
    with pytest.raises(UnknownQuery, match="no parameter colour"):
        saved_query("card-history").values({"card": "x", "colour": "red"})
    with pytest.raises(UnknownQuery, match="fraud-by-merchant"):
        saved_query("nothing")


# --- migrations ---


def test_applied_migrations_are_not_applied_again(written: HttpClient) -> None:
    assert migrate(written) == []


def test_a_migration_that_was_changed_is_refused(written: HttpClient) -> None:
    first, *rest = load_migrations()
    changed = [Migration(first.number, first.name, first.text + "-- a word\n"), *rest]
    with pytest.raises(SchemaChanged, match="migration 1"):
        migrate(written, changed)


def test_an_older_program_refuses_a_newer_database(written: HttpClient) -> None:
    with pytest.raises(SchemaChanged, match="newer"):
        migrate(written, load_migrations()[:-1])


def test_a_migration_that_broke_off_is_finished_by_the_next_try(written: HttpClient) -> None:
    migrations = load_migrations()
    number = len(migrations) + 1
    broken = Migration(
        number, "probe", "CREATE TABLE probe_one (a Int8) ENGINE = Memory;\n\nCREATE TABLE probe_two (a Nothing_Known) ENGINE = Memory;\n"
    )
    mended = Migration(number, "probe", broken.text.replace("Nothing_Known", "Int8"))
    with pytest.raises(ClickHouseError):
        migrate(written, [*migrations, broken])
    assert migrate(written, [*migrations, mended]) == [f"{number:04d}_probe"]
    written.command("SYSTEM START MERGES schema_migrations")  # a DELETE is one
    for statement in ("DROP TABLE probe_one", "DROP TABLE probe_two", f"DELETE FROM schema_migrations WHERE number = {number}"):
        written.command(statement)
    assert migrate(written) == []


def test_the_accounts_of_a_server_are_sql_that_the_engine_can_parse(written: HttpClient) -> None:
    from analytics import schema

    text = (schema._FOLDER.parent / "server_roles.sql").read_text()
    statements = Migration(0, "roles", text).statements
    assert len(statements) == 8
    for statement in statements:
        written.query("SELECT formatQuery({q:String})", parameters={"q": statement})
