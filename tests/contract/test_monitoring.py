"""Rules, routes and dashboards: they parse, name what the catalogue has, fire when they should, and are what is checked in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.dashboards import DASHBOARDS, FOLDER, write
from infra.gotools import find_tool
from infra.panels import Dashboard, expressions, render
from infra.settings import REPO_ROOT
from serving.metrics import CATALOGUE, EMITTED_NOW, FLINK, series_of
from tests.promql import missing_from, names_in

PROMETHEUS = REPO_ROOT / "infra" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))
ADDED = {"up": frozenset({"job", "instance"}), "ALERTS": frozenset({"alertname", "alertstate", "severity", "notify"})}


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def recorded() -> dict[str, frozenset[str]]:
    """Recording rules with the labels that they keep."""
    found = [rule for path in RULES for rule in rules(path) if "record" in rule]
    return {rule["record"]: names_in(rule["expr"]).grouped - {"le"} for rule in found}


def catalogued(*, emitted_now: bool) -> dict[str, frozenset[str]]:
    entries = [entry for entry in CATALOGUE if entry.emitter in EMITTED_NOW or not emitted_now]
    own = {name: labels for entry in entries for name, labels in series_of(entry).items()}
    return {**own, **{entry.name: frozenset(entry.labels) for entry in FLINK}, **recorded(), **ADDED}


def waits(record: str) -> bool:
    """Whether a recorded name rests on something that nobody emits yet."""
    exprs = {rule["record"]: rule["expr"] for path in RULES for rule in rules(path) if "record" in rule}
    return bool(missing_from(catalogued(emitted_now=True), exprs[record]))


def tool(name: str) -> str:
    found = find_tool(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: with Go installed, ./fraudguard test or python -m infra.gotools builds it")
    return str(found)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


# --- names ---


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_rule_names_only_what_the_catalogue_has(path: Path) -> None:
    exposed = catalogued(emitted_now=False)
    missing = {rule.get("record") or rule["alert"]: missing_from(exposed, rule["expr"]) for rule in rules(path)}
    assert {name: what for name, what in missing.items() if what} == {}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_panel_names_only_what_is_emitted_now(dashboard: Dashboard) -> None:
    exposed = catalogued(emitted_now=True)
    missing = {expr: missing_from(exposed, expr) for expr in expressions(dashboard)}
    assert {expr: what for expr, what in missing.items() if what} == {}
    assert [name for expr in expressions(dashboard) for name in names_in(expr).metrics if name in recorded() and waits(name)] == []


def test_every_metric_of_flink_in_the_catalogue_is_used_or_it_would_not_be_curated() -> None:
    used = {name for dashboard in DASHBOARDS for expr in expressions(dashboard) for name in names_in(expr).metrics}
    used |= {name for path in RULES for rule in rules(path) for name in names_in(rule["expr"]).metrics}
    assert {entry.name for entry in FLINK} - used == set()


@pytest.mark.parametrize(
    ("expr", "missing"),
    [
        ("sum by (a) (rate(x_total[5m]))", []),
        ("sum by (b) (rate(x_total[5m]))", ["label b of any of them"]),
        ('rate(x_total{b="x_missing{"}[5m])', ["label b of x_total"]),
        ("y_total / on (a) group_left () x_total", ["metric y_total"]),
        ("histogram_quantile(0.95, sum by (le) (rate(x_total[1h] offset 1d))) > bool 1e3", []),
        ("abs(x:y:z - 1) > 0.5 unless absent(x_total)", ["metric x:y:z"]),
    ],
)
def test_the_reader_of_expressions_finds_what_is_wrong(expr: str, missing: list[str]) -> None:
    """The control of the two tests above."""
    assert missing_from({"x_total": {"a"}}, expr) == missing


# --- alerts ---


def alerts() -> list[dict[str, Any]]:
    return [rule for path in RULES for rule in rules(path) if "alert" in rule]


def rule_tests() -> Iterator[tuple[str, bool]]:
    """Alerts that are tested, each with whether it is expected to fire."""
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for check in case["promql_expr_test"]:
                (name,) = re.findall(r'alertname="(\w+)"', check["expr"])
                yield name, bool(check["exp_samples"])


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert sorted(rule_tests()) == sorted((rule["alert"], fires) for rule in alerts() for fires in (True, False))


def test_every_alert_has_a_severity_a_channel_and_a_section_of_the_runbook() -> None:
    channels = {"pagerduty", "slack", "email"}
    headings = re.findall(r"^## (\w+)$", (PROMETHEUS / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["labels"]["notify"] in channels
        assert rule["annotations"]["runbook"] == f"infra/prometheus/runbook.md#{rule['alert'].lower()}"


def test_promtool_finds_every_configuration_and_rule_sound() -> None:
    promtool = tool("promtool")
    for path in sorted(PROMETHEUS.glob("prometheus*.yml")):
        done = run(promtool, "check", "config", str(path))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    done = run(tool("promtool"), "test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("broken", ["== 5", "== bool 0"], ids=["never fires", "always fires"])
def test_a_broken_alert_fails_its_test(tmp_path: Path, broken: str) -> None:
    """The control: with its comparison changed, the alert of a component that is down fails in promtool's test."""
    promtool = tool("promtool")
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus", ignore=shutil.ignore_patterns("tools"))
    file = tmp_path / "prometheus" / "rules" / "alerts.yml"
    text = file.read_text()
    assert "fraud_detection_system_health == 0" in text
    file.write_text(text.replace("fraud_detection_system_health == 0", f"fraud_detection_system_health {broken}"))
    done = run(promtool, "test", "rules", str(tmp_path / "prometheus" / "tests" / "platform.yaml"))
    assert done.returncode != 0
    assert "ComponentDown" in done.stdout + done.stderr


def test_amtool_finds_the_routes_sound_and_each_channel_reaches_its_receiver() -> None:
    amtool, path = tool("amtool"), str(PROMETHEUS / "alertmanager.yml")
    done = run(amtool, "check-config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    for channel, receiver in (("pagerduty", "pagerduty"), ("slack", "slack"), ("email", "ml-team")):
        routed = run(amtool, "config", "routes", "test", "--config.file", path, f"notify={channel}", "alertname=Anything")
        assert routed.stdout.strip() == receiver


def test_no_secret_stands_in_the_routes() -> None:
    text = (PROMETHEUS / "alertmanager.yml").read_text()
    assert re.findall(r"^\s*(?:slack_api_url|routing_key|service_key|smtp_auth_password|api_url):", text, re.MULTILINE) == []


# --- dashboards ---


def test_the_dashboards_that_are_checked_in_are_those_that_are_described(tmp_path: Path) -> None:
    generated = {path.name: path.read_text() for path in write(tmp_path)}
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == generated, "run python -m infra.dashboards"


def test_promtool_can_parse_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    exprs = [expr for dashboard in DASHBOARDS for expr in expressions(dashboard)]
    group = {"name": "dashboards", "rules": [{"record": f"panel:{i}", "expr": expr} for i, expr in enumerate(exprs)]}
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [group]}))
    done = run(tool("promtool"), "check", "rules", "--lint=none", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_panel_says_what_it_shows_in_which_unit_and_lies_beside_the_others(dashboard: Dashboard) -> None:
    panels = render(dashboard)["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_no_panel_uses_red_against_green() -> None:
    """Okabe and Ito's eight colours; a threshold goes from blue over orange to vermillion."""
    colours = set(re.findall(r"#[0-9A-Fa-f]{6}", json.dumps([render(dashboard) for dashboard in DASHBOARDS])))
    assert colours <= {"#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"}
