"""The pattern job on the local stack: it brings a TaskManager of its own, so that it takes no slot from the scoring job.

``resume`` is the entry of its ticket (see ``infra.jobs``); ``scan`` searches the ledger with the same code and no job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flink_jobs.pattern_settings import PATTERN_JOB_NAME, PatternSettings
from fraud.errors import Denied
from fraud.patterns import detect
from infra import scoring_job
from infra.jobs import JobTicket, find_newest_checkpoint, save_ticket, submit_if_missing
from infra.plan import Plan
from infra.savepoints import claimable
from infra.scoring_job import JobState
from infra.stack import Stack
from serving import ledger
from serving.codec import Codec
from serving.pattern_events import Row, alert_of_finding, row_of, to_window
from serving.records import Alert
from serving.registry import HttpRegistry, register_all

__all__ = ["Scan", "ensure_running", "resume", "scan", "settings_of"]

_WINDOW_S = "window_s"


@dataclass(frozen=True)
class Scan:
    """What a scan saw, and the alerts that it would raise."""

    events: int
    windows: int
    alerts: Sequence[Alert]


def settings_of(plan: Plan) -> PatternSettings:
    """Settings of the job on this stack, schemas registered; raises Unavailable."""
    addresses = plan.addresses
    return PatternSettings(
        bootstrap_servers=addresses.bootstrap_servers,
        flink_port=plan.settings.flink_port,
        registry_url=addresses.registry_url,
        schema_ids=register_all(HttpRegistry(addresses.registry_url, timeout_s=10.0)),
        partitions=plan.settings.partitions,
    )


def ensure_running(
    stack: Stack, progress: Callable[[str], None] = lambda _text: None, *, window_s: int | None = None, **overrides: Any
) -> JobState:
    """Start the job's TaskManager and the job, from its newest checkpoint if it has one; returns when every task runs.

    Args:
        stack: must be up.
        progress: is told what happens.
        window_s: length of the windows; open windows are state, so another length needs a start without state.
        overrides: further ``PatternSettings``, for a first start.

    Raises:
        Denied: the job has windows of another length.
        Unavailable: the stack is not up, or the job does not start.
    """
    plan = stack.plan
    wanted = {**overrides, **({} if window_s is None else {_WINDOW_S: window_s})}
    ticket = scoring_job.ticket_of(plan, PATTERN_JOB_NAME)
    if ticket is None:
        ticket = JobTicket(PATTERN_JOB_NAME, "infra.pattern_job:resume", arguments=(json.dumps(wanted),), slots=1)
    elif window_s not in (None, _overrides(ticket).get(_WINDOW_S, PatternSettings.model_fields[_WINDOW_S].default)):
        raise Denied("its open windows have another length; ./fraudguard job stop patterns --discard gives them up")
    save_ticket(plan.layout, ticket)  # the supervisor sees it and starts the TaskManager
    stack.up(progress)
    checkpoint = find_newest_checkpoint(plan.layout, ticket)
    progress(f"submitting the pattern job{f' from {checkpoint}' if checkpoint else ''}")
    submit_if_missing(plan, ticket)
    return scoring_job.wait_until_running(plan, PATTERN_JOB_NAME)


def resume(plan: Plan, ticket: JobTicket, checkpoint: str | None) -> str:
    """Submit the job from a checkpoint or savepoint (None: from the beginning of the ledger) and return its id."""
    settings = settings_of(plan).model_copy(
        update={**_overrides(ticket), "restore_from": checkpoint and claimable(plan.layout, checkpoint)}
    )
    return scoring_job.submit(plan, PATTERN_JOB_NAME, "flink_jobs.patterns", settings.model_dump_json())


def _overrides(ticket: JobTicket) -> dict[str, Any]:
    return dict(json.loads(ticket.arguments[0])) if ticket.arguments else {}


def scan(plan: Plan, *, window_s: int) -> Scan:
    """Search everything that the ledger holds now; holds all of it in memory, about 1 KB an event."""
    registry = HttpRegistry(plan.addresses.registry_url, timeout_s=10.0)
    codec = Codec(register_all(registry), registry.schema_by_id)
    window_ms = window_s * 1_000
    rows: dict[tuple[int, str], list[Row]] = {}
    for message in ledger.read_to_end(plan.addresses.bootstrap_servers, [ledger.DECISIONS]):
        decision = codec.decode_decision(message.value())
        start_ms = decision.event_time_ms - decision.event_time_ms % window_ms
        rows.setdefault((start_ms, decision.tenant_id), []).append(row_of(decision))
    alerts: list[Alert] = []
    for (start_ms, tenant_id), of_window in sorted(rows.items(), key=lambda item: item[0]):
        events, findings = detect(to_window(tenant_id, start_ms, start_ms + window_ms, [of_window]))
        alerts += [alert_of_finding(finding, events) for finding in findings]
    return Scan(sum(map(len, rows.values())), len(rows), alerts)
