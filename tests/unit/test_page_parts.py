"""What the pages rest on, without a server: who a cookie is for, reports by their names, the sink's lag, money in words."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from starlette.datastructures import Headers

from analytics.lag import Place, behind
from analytics.reports import Report, Reports
from analytics.shadow import Asked
from analytics.templating import environment
from api.rendering import Renderer, readable
from api.sessions import COOKIE, is_page, token_of
from cli.__main__ import main
from infra.api_access import api_settings
from infra.house_access import house_settings
from infra.layout import Layout
from infra.plan import make_plan, save_plan
from infra.settings import StackSettings

REPORT = Report(1_760_000_000_000, "ab" * 32, 1, 2, 300, equal=True)


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("GET", "/desk", "t"),
        ("GET", "/desk/rules", "t"),
        ("POST", "/desk/rules", None),
        ("HEAD", "/desk", None),
        ("GET", "/desktop", None),
        ("GET", "/v1/rules", None),
        ("GET", "/v1/desk/", None),
    ],
)
def test_a_cookie_is_a_credential_for_looking_at_pages_alone(method: str, path: str, token: str | None) -> None:
    assert token_of({"method": method, "path": path}, Headers({"cookie": f"a=1; {COOKIE}=t"})) == token


@pytest.mark.parametrize("cookies", [[], ["other=1"], [f"{COOKIE}="], [f"{COOKIE}=a", f"{COOKIE}=b"]])
def test_no_cookie_and_two_of_them_are_none(cookies: list[str]) -> None:
    headers = Headers(raw=[(b"cookie", value.encode()) for value in cookies])
    assert token_of({"method": "GET", "path": "/desk"}, headers) is None


def test_pages_begin_with_their_own_word() -> None:
    assert [is_page(path) for path in ("/desk", "/desk/", "/desk/x", "/desks", "/", "/v1/desk")] == [True, True, True, False, False, False]


def test_a_report_is_listed_and_found_by_its_name(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "none yet")
    assert reports.list() == []
    later = Report(REPORT.created_ms + 1, "cd" * 32, 1, 2, 300, equal=False)
    for one in (REPORT, later):
        reports.add(one, f"<h1>{one.name}</h1>", kept=5)
    assert reports.list() == [later, REPORT]
    assert reports.find(REPORT.name) == (REPORT, f"<h1>{REPORT.name}</h1>")


@pytest.mark.parametrize("name", ["", "..", "../secret", "1760000000000-abababababab/../../secret", "1760000000000-abababababab.json"])
def test_a_name_that_is_none_reaches_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "secret.html").write_text("secret")
    reports = Reports(tmp_path / "reports")
    reports.add(REPORT, "article", kept=5)
    assert reports.find(name) is None


def test_only_the_newest_reports_are_kept(tmp_path: Path) -> None:
    """With them goes an article whose writer was killed before its line."""
    reports = Reports(tmp_path)
    (tmp_path / f"{replace(REPORT, created_ms=1).name}.html").write_text("half of a report")
    several = [replace(REPORT, created_ms=REPORT.created_ms + i) for i in range(5)]
    for one in several:
        reports.add(one, "article", kept=3)
    assert reports.list() == several[:1:-1]
    assert reports.find(several[1].name) is None
    assert len(list(tmp_path.iterdir())) == 2 * 3


def test_lag_counts_what_lies_between_the_sink_and_the_end() -> None:
    ids, done = {"a": "id-a", "b": "id-b"}, {Place("a", "id-a", 0): 7, Place("a", "an older id", 1): 99}
    ends = [TopicPartition("a", 0, 10), TopicPartition("a", 1, 4), TopicPartition("b", 0, 0)]
    assert behind(ids, ends, done) == {"a": 3 + 4, "b": 0}
    assert behind(ids, [TopicPartition("a", 0, 5)], done) == {"a": 0, "b": 0}  # an end that is old news


def test_the_front_of_a_stack_reads_as_the_reader_and_never_learns_the_writers_password(tmp_path: Path) -> None:
    plan = make_plan(Layout(tmp_path), StackSettings.on_free_ports(analytics=True))
    found, house = api_settings(plan), house_settings(plan)
    assert (found.clickhouse_url, found.clickhouse_user, found.clickhouse_password) == (house.url, house.reader_user, house.reader_password)
    assert house.password not in [value for _, value in found]
    without = api_settings(make_plan(Layout(tmp_path), StackSettings.on_free_ports()))
    assert (without.clickhouse_url, without.clickhouse_password) == (None, None)


def test_a_notebook_is_told_how_to_reach_clickhouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDGUARD_HOME", str(tmp_path))
    plan = make_plan(Layout(tmp_path), StackSettings.on_free_ports(analytics=True))
    save_plan(plan)
    assert main(["access", "clickhouse"]) == 0
    said = dict(line.removeprefix("export ").split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert said["FRAUDGUARD_CLICKHOUSE_URL"] == plan.addresses.clickhouse_url
    assert said["FRAUDGUARD_CLICKHOUSE_READER_PASSWORD"] == shlex.quote(house_settings(plan).reader_password.get_secret_value())
    assert said.keys() == {*(f"FRAUDGUARD_CLICKHOUSE_{name}" for name in ("URL", "READER_USER", "READER_PASSWORD")), "PYTHONPATH"}


@pytest.mark.parametrize(
    ("minor", "exponent", "currency", "text"),
    [(760, 2, "USD", "7.60 USD"), (45_646, 0, "JPY", "45,646 JPY"), (1_234_567, 3, "KWD", "1,234.567 KWD"), (-5, 2, "EUR", "-0.05 EUR")],
)
def test_money_is_written_with_the_places_of_its_currency(minor: int, exponent: int, currency: str, text: str) -> None:
    assert environment().from_string("{{ a | money(b, c) }}").render(a=minor, b=exponent, c=currency) == text


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "missing"), (3.0, "3"), (1234.5, "1,234.5"), (1 / 3, "0.333333"), (0.0, "0")])
def test_values_are_readable(value: float, text: str) -> None:
    assert readable(value) == text


@pytest.mark.parametrize("tried", [True, False])
def test_the_rules_page_shows_what_is_tried_and_nothing_where_nothing_is(tried: bool) -> None:
    challenger = Asked(
        "model", "ab" * 32, events=1_200, agreed=1_050, stricter=90, looser=60, first_event_ms=0, last_event_ms=REPORT.created_ms
    )
    page = Renderer(is_production=True).page("rules.html", rules=[], precision=None, challengers=[challenger] if tried else [])
    shown = bytes(page.body).decode()
    for text in ("Tried beside the decisions", "abababababab", "1,200", "87.5%", ">90<", ">60<"):
        assert (text in shown) is tried
