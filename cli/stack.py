"""``up``, ``down`` and ``status`` of the local stack."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.arguments import FINDING, GOOD, add_command
from cli.output import print_lines, print_table, report, say, stopwatch

if TYPE_CHECKING:
    from cli.arguments import Commands
    from infra.plan import Addresses
    from infra.stack import ComponentStatus, StackStatus

__all__ = ["register"]

_UP = """\
Start Kafka, Flink, Redis, the schema registry and ClickHouse's engine as processes of this machine, a supervisor that restarts what
dies, and the scoring job.  The first start trains a first model on generated history, which takes a minute or two.  A second `up` changes
nothing; after a failed or interrupted one it finishes the start.

Ports come from FRAUDGUARD_KAFKA_PORT (9092), FRAUDGUARD_FLINK_PORT (8081), FRAUDGUARD_REDIS_PORT (6379) and
FRAUDGUARD_REGISTRY_PORT (8085) and FRAUDGUARD_CLICKHOUSE_PORT (8123); 0 means any free port.  FRAUDGUARD_CLICKHOUSE_URL takes a
ClickHouse server of your own instead; FRAUDGUARD_ANALYTICS=false goes without.  FRAUDGUARD_TASKMANAGERS (2) is how many the scoring job
works on, see `job rescale`.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    add_command(commands, "up", _up, "start the local stack", description=_UP)
    down = add_command(commands, "down", _down, "stop the local stack; nothing keeps running")
    down.add_argument("--wipe", action="store_true", help="also remove topics, state, checkpoints and logs")
    status = add_command(commands, "status", _status, "how each process of the stack is (exit status 1 unless all are healthy)")
    status.add_argument("--events", type=int, default=8, metavar="N", help="show the last N events of the supervisor (default 8)")


def _up(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415

    try:
        application = bring_up(Stack(), stopwatch())
    except KeyboardInterrupt:
        say("interrupted; what was started goes on. ./fraudguard status tells, ./fraudguard down stops it")
        raise
    result = application.stack
    what = "it is already up" if result.already else f"the stack is up after {result.seconds:.0f} s"
    report(
        {
            "state": "up",
            "already": result.already,
            "seconds": round(result.seconds, 3),
            "addresses": asdict(result.addresses),
            "model": application.model_sha256,
            "job": asdict(application.job),
        },
        as_json=arguments.json,
        people=lambda: print_lines([what, *_address_lines(result.addresses)]),
    )
    return GOOD


def _down(arguments: argparse.Namespace) -> int:
    from infra.stack import Stack  # noqa: PLC0415

    ran = Stack().down(wipe=arguments.wipe, progress=stopwatch())
    what = "the stack is down" if ran else "nothing was running"
    if arguments.wipe:
        what += "; its data is removed"
    report({"state": "down", "stopped": ran, "wiped": arguments.wipe}, as_json=arguments.json, people=lambda: print_lines([what]))
    return GOOD


def _status(arguments: argparse.Namespace) -> int:
    from infra.stack import Stack  # noqa: PLC0415

    status = Stack().status()
    lag = _sink_lag(status)
    report({**status.as_dict(), "sink_lag": lag}, as_json=arguments.json, people=lambda: _print_status(status, arguments.events, lag))
    return GOOD if status.state == "up" else FINDING


def _sink_lag(status: StackStatus) -> dict[str, int] | None:
    """Records of each topic that ClickHouse does not have yet; None where that cannot be told."""
    from fraud.errors import Unavailable  # noqa: PLC0415 - help works without any package
    from infra.house import lag_records  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    if not any(part.name == "sink" and part.health == "healthy" for part in status.components):
        return None
    try:
        return lag_records(Stack().plan)
    except Unavailable:
        return None


def _print_status(status: StackStatus, events: int, lag: dict[str, int] | None) -> None:
    print_lines([f"{status.state}  ({status.home})", ""])
    if status.components:
        print_table(
            ("server", "health", "pid", "port", "running for", "restarts", "detail"),
            [
                (part.name, part.health, part.pid, part.port, _describe_age(part), part.restarts, part.detail or part.url)
                for part in status.components
            ],
        )
    if status.components and status.supervisor_pid is None:
        print_lines(["", "the supervisor does not run, so nothing is restarted: ./fraudguard up brings it back"])
    if status.jobs:
        print_lines([""])
        print_table(("job", "state", "id", ""), [(job.name, job.state, job.job_id, job.detail) for job in status.jobs])
    if lag is not None:
        print_lines(["", "ClickHouse lacks " + ", ".join(f"{records:,} records of {topic}" for topic, records in lag.items())])
    elif any(part.name == "sink" for part in status.components):
        print_lines(["", "ClickHouse or the sink does not answer: how far it is behind the ledger cannot be told"])
    if status.events and events > 0:
        shown = [(event.time, event.component, event.event, event.detail) for event in status.events[-events:]]
        print_lines([""])
        print_table(("time", "process", "event", ""), shown, title="last events")


def _describe_age(part: ComponentStatus) -> str:
    if part.since is None:
        return ""
    seconds = max(0, int(time.time() - part.since))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _address_lines(addresses: Addresses) -> list[str]:
    return [
        f"  Flink UI          {addresses.flink_rest_url}",
        f"  Kafka             {addresses.bootstrap_servers}",
        f"  schema registry   {addresses.registry_url}",
        f"  Redis             {addresses.redis_url}",
        *([f"  ClickHouse        {addresses.clickhouse_url}"] if addresses.clickhouse_url else []),
        f"  API               {addresses.api_url}",
        f"  pages             {addresses.pages_url}  (sign in with: ./fraudguard access token --role analyst)",
    ]
