"""What every fault test uses: the shared stack with its job behind a bad network, fresh tenants, and orders for the job."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from flink_jobs.settings import JOB_NAME
from generator.driver import Run, interleave
from generator.generate import demo_traffic
from infra import scoring_job
from infra.campaign import Campaign, endless
from infra.jobs import JobTicket, find_newest_checkpoint, load_tickets, read_jobs, save_ticket, submit_if_missing
from infra.oracle import ANOMALIES, Verdict
from infra.probes import read_json_url
from infra.stack import Stack
from serving.clock import now_ms
from tests.faults.toxics import Proxy
from tests.private_stack import private_stack, put_small_model_into_production

CLEAN = dict.fromkeys(ANOMALIES, 0)
CHECKPOINT_S = 1.0
ANSWER_S = 20.0  # Flink answers late on a machine that also carries the load
_ENTRY = "tests.faults.variant_job:resume"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Load:
    """How hard: ``kills`` faults of a kind, ``rate`` events/s, ``events`` at least."""

    kills: int
    rate: float
    events: int


@dataclass
class World:
    """The system under test; ``redis`` is the proxy through which the job reaches its Redis."""

    stack: Stack
    redis: Proxy
    load: Load
    folder: Path
    measured: list[dict[str, Any]] = field(default_factory=list)
    _stand_in: dict[str, Any] = field(default_factory=dict)  # what another job was asked for that has the ordinary one's place
    _ordinary: JobTicket | None = None  # where the ordinary job goes on from after it
    _reads_again: bool = False  # the ordinary job has yet to read what another one read in its place

    def campaign(self, name: str) -> Campaign:
        """A tenant that nobody used before."""
        return Campaign(self.stack.plan, self.folder, f"{name}-{next(_numbers)}")

    def note(self, scenario: str, **figures: object) -> None:
        """A line of the table that the session prints at its end."""
        self.measured.append({"scenario": scenario, **figures})

    # the job

    def start_job(self, *, variant: str = "", settings: dict[str, Any] | None = None, core: dict[str, Any] | None = None) -> None:
        """Have the job run as asked, from where the ticket's chain stands; one that runs already stays as it is.

        It refuses any number of records, since several scenarios send nothing else for a while; F10 asks for the limits.
        """
        self.submit_job(variant=variant, settings=settings, core=core)
        scoring_job.wait_until_running(self.stack.plan)

    def submit_job(self, *, variant: str = "", settings: dict[str, Any] | None = None, core: dict[str, Any] | None = None) -> None:
        """Like :meth:`start_job`, whether it will run or not."""
        plan = self.stack.plan
        found = next((ticket for ticket in load_tickets(plan.layout) if ticket.name == JOB_NAME), None)
        url = f"redis://127.0.0.1:{self.redis.port}/0"
        asked = {"settings": settings or {}, "core": {"redis_url": url, "refusals": None, **(core or {})}, "variant": variant}
        ticket = replace(found or JobTicket(JOB_NAME, _ENTRY), arguments=(json.dumps(asked),))
        save_ticket(plan.layout, ticket)
        submit_if_missing(plan, ticket)

    def stop_job(self) -> None:
        """Stop with a savepoint, from which the next start goes on."""
        scoring_job.stop(self.stack.plan, with_savepoint=True)
        self.wait_until_gone()

    def provide(self, **asked: Any) -> None:
        """Every server healthy, and the ordinary job running, or with ``asked`` (see :meth:`start_job`) another one in its place.

        The other one begins with the ordinary job's state; what it does to it is forgotten when the ordinary one goes on from where it
        was.  A submission takes ten seconds of a core, so a job stays until a test needs another one.
        """
        self.stack.up()
        if asked != self._stand_in:
            self.discard_stand_in()
            if asked:
                self._ordinary, self._stand_in = self._stop_ordinary_job(), asked
        self.make_whole()
        if self._reads_again and not asked:
            self._reads_again = False
            for _ in range(2):  # the next test's ledger should begin after what it reads once more
                self.wait_for_a_checkpoint()

    def make_whole(self) -> None:
        """Every server healthy, and the job that was asked for running, the same one if it still does."""
        self.stack.up()
        self.start_job(**self._stand_in)

    def discard_stand_in(self) -> None:
        """End a job that has the ordinary one's place, which goes on when it is needed next: with what the other one read meanwhile."""
        if self._ordinary is not None:
            scoring_job.stop(self.stack.plan, with_savepoint=False)
            self.wait_until_gone()
            save_ticket(self.stack.layout, self._ordinary)
            self._stand_in, self._ordinary, self._reads_again = {}, None, True

    def _stop_ordinary_job(self) -> JobTicket:
        """Where it goes on from."""
        if self.ticket().job_ids:
            self.start_job()
            self.stop_job()
        return self.ticket()

    def ticket(self) -> JobTicket:
        """Of the job, which must have one."""
        return next(ticket for ticket in load_tickets(self.stack.layout) if ticket.name == JOB_NAME)

    def wait_until_gone(self, patience_s: float = 60.0) -> None:
        """Until Flink has no job of ours: its slots are then free, and its checkpoints final."""
        deadline = time.monotonic() + patience_s
        while any(job.name == JOB_NAME for job in read_jobs(self.stack.addresses.flink_rest_url, ANSWER_S)):
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def restarts(self) -> int:
        """How often Flink has restarted the running job."""
        job_id = scoring_job.state_of(self.stack.plan).job_id
        answer = read_json_url(f"{self.stack.addresses.flink_rest_url}/jobs/{job_id}/metrics?get=numRestarts", ANSWER_S)
        return int(float(answer[0]["value"])) if answer else 0  # the metric appears with the first restart's bookkeeping

    def wait_for_a_checkpoint(self, patience_s: float = 60.0) -> None:
        """Until the next checkpoint has completed."""
        folder = self.stack.layout.checkpoints / self.ticket().job_ids[-1]
        before = _completed(folder)
        deadline = time.monotonic() + patience_s
        while _completed(folder) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def restore_the_checkpoint_before_the_newest(self) -> None:
        """The mistake that the supervisor must never make: end the job, and restore an older checkpoint than the newest."""
        plan = self.stack.plan
        ticket = self.ticket()
        scoring_job.stop(plan, with_savepoint=False)
        self.wait_until_gone()
        newest = find_newest_checkpoint(plan.layout, ticket)
        assert newest is not None
        folder = plan.layout.checkpoints / ticket.job_ids[-1]
        older = sorted((path for path in folder.glob("chk-*") if (path / "_metadata").exists()), key=lambda path: int(path.name[4:]))
        assert older[-1].as_uri() == newest
        save_ticket(plan.layout, JobTicket(JOB_NAME, ticket.resume, (), older[-2].as_uri(), ticket.arguments))
        self.start_job()

    # the traffic

    def traffic(self, tenant: str, *, seconds: float, rate: float | None = None, seed: int = 1, cards: int = 500) -> pl.DataFrame:
        """Events of the last ``seconds``: none of them is from the future whenever it is sent."""
        start_ms = now_ms() - round(seconds * 1000)
        frame = demo_traffic(seconds, rate or self.load.rate, seed=seed, start_ms=start_ms, users=cards, merchants=cards // 10)
        return frame.with_columns(pl.lit(tenant).alias("tenant_id"))

    def send(self, campaign: Campaign, frame: pl.DataFrame, rate: float | None = None) -> Run:
        """Send a frame at the load's rate."""
        return campaign.drive(interleave(frame, None, rate or self.load.rate))

    def under_fault(self, campaign: Campaign, fault: Callable[[], None], *, events: int | None = None) -> Verdict:
        """Load for as long as ``fault`` takes and at least ``events``; then everything has settled and is judged."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                fault()
            except BaseException as error:  # noqa: BLE001 - raised again below, on the thread of the test
                failures.append(error)

        worker = threading.Thread(target=work, name="fault", daemon=True)
        started = now_ms()
        at_least_s = (events or self.load.events) / self.load.rate
        began_s = time.monotonic()
        worker.start()
        traffic = endless(
            campaign.tenant,
            self.load.rate,
            seed=7,
            start_ms=started,
            is_over=lambda: not worker.is_alive() and time.monotonic() - began_s >= at_least_s,
            users=1_000,
            merchants=100,
        )
        campaign.drive(traffic)
        worker.join()
        if failures:
            raise failures[0]
        campaign.settle()
        return campaign.verdict()

    def wait_until_recovered(self, campaign: Campaign, moment_ms: float, patience_s: float = 150.0) -> float:
        """Seconds from a fault until something sent after it is committed."""
        deadline = time.monotonic() + patience_s
        while (seconds := campaign.tail.visible_after_s(moment_ms)) is None:
            assert time.monotonic() < deadline, f"nothing sent after the fault was committed within {patience_s} s"
            time.sleep(0.05)
        return seconds


@contextmanager
def private_world(folder: Path, load: Load, measured: list[dict[str, Any]], **settings: Any) -> Iterator[World]:
    """A stack of one's own, with settings of ``StackSettings``, and the ordinary job running, until the block ends."""
    # the proxy closes last: nobody is connected any more
    with ExitStack() as afterwards, private_stack(folder / "home", **settings) as stack:
        proxy = afterwards.enter_context(closing(Proxy(stack.plan.settings.redis_port)))
        put_small_model_into_production(stack)
        (folder / "acks").mkdir()
        world = World(stack, proxy, load, folder / "acks", measured)
        world.start_job()
        yield world


def _completed(folder: Path) -> int:
    """Number of the newest completed checkpoint of a job."""
    return max((int(path.parent.name.removeprefix("chk-")) for path in folder.glob("chk-*/_metadata")), default=0)


def strike(world: World, campaign: Campaign, number: int, chance: random.Random) -> None:
    """Wait for the instant of a kill: half of them anywhere in the checkpoint cycle, half up to 50 ms after a completed checkpoint.

    The load must have reached the ledger before.  The first one comes in the middle of the cycle, when a transaction is open and
    something is at stake.
    """
    world.wait_until_recovered(campaign, time.time() * 1000.0)
    world.wait_for_a_checkpoint()
    if number == 0:
        time.sleep(0.6 * CHECKPOINT_S)
    else:
        time.sleep(chance.uniform(0.0, CHECKPOINT_S if number % 2 else 0.05))


def figures(verdict: Verdict) -> dict[str, int]:
    """What goes into the table of measurements."""
    return {"acked": verdict.acked, "decided": verdict.decided, "labels": verdict.labels, **verdict.anomalies}
