"""A minute of generated traffic through the running system, and what came of it, counted from the ledger.

Composition only: traffic from ``generator``, load by its driver and a share of it by ``infra.door``, truth from the committed ledger,
parity from ``training``, and at the end an analyst's question from ``analytics``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from analytics.history import LedgerTopics
from analytics.queries import saved_query
from api.client import Client
from api.identity import Role
from fraud.events import decision_id
from generator.driver import Driver, Run, interleave
from generator.generate import demo_traffic, labels
from infra.api_access import Access
from infra.door import Compared, Door, report
from infra.features import backfill_recorded
from infra.first_model import DEMO_SEED
from infra.house import wait_until_caught_up
from infra.percentiles import percentiles_ms
from infra.plan import Plan
from infra.query import ask
from infra.replay import LedgerView, watch_ledger
from serving.clock import now_ms
from serving.codec import Codec
from serving.records import Decision

__all__ = ["DemoOptions", "run_demo"]

Say = Callable[[str], None]
# a fraud of the demonstration becomes known within seconds, so that labels travel too: hours become tenths of a second
_LABEL_TIME_SCALE = 3e-5
_TENANT = "default"  # the traffic's


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``seconds`` of traffic at ``rate`` events a second, ``api_share`` of it through the API."""

    seconds: float = 60.0
    rate: float = 500.0
    api_share: float = 0.1
    seed: int = DEMO_SEED


def run_demo(
    plan: Plan,
    codec: Codec,
    options: DemoOptions,
    *,
    say: Say,
    on_progress: Callable[[Run], None],
    on_decision: Callable[[Decision], None] = lambda _decision: None,
) -> dict[str, Any]:
    """Run the demonstration on a stack that is up; the keys of the result are those of ``demo --json``."""
    bootstrap = plan.addresses.bootstrap_servers
    say(f"generating {round(options.seconds * options.rate):,} transactions with seven kinds of fraud in them")
    start_ms = now_ms() + 2_000
    traffic = demo_traffic(options.seconds, options.rate, seed=options.seed, start_ms=start_ms, with_instance=True)
    known = labels(traffic, seed=options.seed, time_scale=_LABEL_TIME_SCALE)
    frame = traffic.drop("scenario_instance")
    say(f"streaming for {options.seconds:.0f} s at {options.rate:g} events/s")
    # event times are wall-clock times, and an event from the future would be refused
    time.sleep(max(0.0, start_ms / 1000 - time.time()))
    driver = Driver(bootstrap, codec, hold=False, on_progress=on_progress)
    token = Access(plan.layout).issue_token(_TENANT, "demo", Role.SERVICE)
    with Client(plan.addresses.api_url, token=token) as client:
        door = Door(client, _TENANT, options.api_share)
        run = driver.run(door.divert(interleave(frame, known, options.rate)), paced=True)
    say("reading the committed ledger")
    decisions: dict[str, Decision] = {}

    def keep(decision: Decision) -> None:
        decisions[decision.decision_id] = decision
        on_decision(decision)

    view = watch_ledger(bootstrap, codec, run.sent_ids | door.sent_ids, take=keep)
    say("recomputing every feature of the ledger in its recorded order")
    parity = backfill_recorded(LedgerTopics(bootstrap, codec), out=None, check=None, say=say)
    compared = Compared.of(decisions.values(), door.sent_ids)
    found = detection(traffic, decisions, run.answered_ms | door.answered_ms)
    result = _result(run, view, parity, found, plan) | {"api": report(door, compared)}
    return {**result, "analytics": _asked(plan, start_ms, say)}


def _asked(plan: Plan, start_ms: int, say: Say) -> dict[str, Any] | None:
    """The run as an analyst sees it, once ClickHouse has all of it; None where the stack has no analytics."""
    if plan.addresses.clickhouse_url is None:
        return None
    say("asking ClickHouse about this run")
    waited_s = wait_until_caught_up(plan)
    saved = saved_query("run-outcomes")
    since = datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    answer = ask(plan, saved.sql, saved.values({"since": since}), limit=50)
    return {"query": saved.name, "since": since, "waited_s": round(waited_s, 2), "columns": list(answer.columns), "rows": list(answer.rows)}


def detection(traffic: pl.DataFrame, decisions: dict[str, Decision], answered_ms: dict[str, float]) -> dict[str, dict[str, Any]]:
    """For each scenario: transactions, how many were not allowed, instances, and the time until each instance was first stopped."""
    rows = traffic.filter(pl.col("is_fraud")).select("tenant_id", "transaction_id", "scenario", "scenario_instance", "event_time_ms")
    found: dict[str, dict[str, Any]] = {}
    for (scenario,), group in rows.group_by("scenario", maintain_order=True):
        caught = 0
        first_event: dict[int, int] = {}
        first_stop: dict[int, float] = {}
        for tenant, transaction, _, instance, event_time_ms in group.iter_rows():
            identity = decision_id(tenant, transaction)
            decision = decisions.get(identity)
            first_event[instance] = min(first_event.get(instance, event_time_ms), event_time_ms)
            if decision is not None and decision.outcome != "ALLOW":
                caught += 1
                stopped = answered_ms.get(identity, float(event_time_ms))
                first_stop[instance] = min(first_stop.get(instance, stopped), stopped)
        times_s = sorted((first_stop[i] - first_event[i]) / 1000 for i in first_stop)
        found[str(scenario)] = {
            "transactions": group.height,
            "stopped": caught,
            "recall": round(caught / group.height, 4),
            "instances": len(first_event),
            "instances_detected": len(first_stop),
            "median_time_to_detect_s": round(times_s[len(times_s) // 2], 3) if times_s else None,
        }
    legitimate = traffic.filter(~pl.col("is_fraud"))
    stopped = sum(
        1
        for tenant, transaction in legitimate.select("tenant_id", "transaction_id").iter_rows()
        if (decision := decisions.get(decision_id(tenant, transaction))) is not None and decision.outcome != "ALLOW"
    )
    found["(legitimate)"] = {
        "transactions": legitimate.height,
        "stopped": stopped,
        "false_positive_rate": round(stopped / max(1, legitimate.height), 5),
    }
    return found


def _result(run: Run, view: LedgerView, parity: dict[str, Any], found: dict[str, dict[str, Any]], plan: Plan) -> dict[str, Any]:
    legitimate = found.pop("(legitimate)")
    return {
        "events": run.sent,
        "labels": run.labels_sent,
        "rate": round(run.rate, 1),
        "seconds": round(run.seconds, 2),
        "latency_ms": percentiles_ms(run.latencies_ms),
        "outcomes": dict(sorted(view.outcomes.items())),
        "lost": len(view.missing),
        "duplicates": view.duplicates,
        "dead_letters": len(view.refused),
        "late": view.late,
        "alerts": view.alerts,
        "feature_mismatches": parity["differing_from_record"],
        "recomputed_events": parity["events"],
        "recall": {scenario: values["recall"] for scenario, values in sorted(found.items())},
        "scenarios": dict(sorted(found.items())),
        "false_positive_rate": legitimate["false_positive_rate"],
        "model": sorted(filter(None, view.models)),
        "rule_set": sorted(filter(None, view.rule_sets)),
        "addresses": {
            "flink_ui": plan.addresses.flink_rest_url,
            "kafka": plan.addresses.bootstrap_servers,
            "schema_registry": plan.addresses.registry_ui_url,
            "redis": plan.addresses.redis_url,
            **({} if plan.addresses.clickhouse_url is None else {"clickhouse": plan.addresses.clickhouse_url}),
            "pages": plan.addresses.pages_url,
        },
    }
