"""A rescale and an upgrade as an operator meets them: under traffic, by command, and when something goes wrong on the way.

The oracle compares what was acknowledged with what was committed, and computes every feature and score again from the logs: a state
that was lost, doubled or mixed up in between cannot pass as gap 0 and diff 0.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from flink_jobs.settings import JOB_NAME
from fraud.errors import Denied, Unavailable
from infra import job_change, scoring_job
from infra.application import bring_up
from infra.campaign import Campaign, endless
from infra.first_model import train_first_model
from infra.jobs import JobTicket, find_newest_checkpoint, read_jobs, save_ticket
from infra.oracle import ANOMALIES
from infra.probes import read_json_url
from infra.settings import StackSettings
from infra.stack import Stack
from serving import model_files
from serving.enrich import Enricher

pytestmark = pytest.mark.slow

CLEAN = dict.fromkeys(ANOMALIES, 0)
RATE = 150.0
PATIENCE_S = 120.0


def silent(_text: str) -> None:
    return


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, since its TaskManagers come and go, with a small model and the scoring job."""
    stack = Stack(tmp_path_factory.mktemp("change"), StackSettings.on_free_ports())
    models = scoring_job.models_dir(stack.layout)
    key = scoring_job.ip_hash_key_file(stack.layout).read_bytes()
    report = train_first_model(models, Enricher(key), say=silent, start_ms=now_ms(), rows=8_000)
    model_files.promote(models, report.sha256)
    try:
        bring_up(stack, silent)
        yield stack
    finally:
        stack.down()


def under_traffic(stack: Stack, tmp_path_factory: pytest.TempPathFactory, name: str, change: Callable[[], None]) -> Campaign:
    """Send for as long as ``change`` takes, wait until everything has settled, and check what the oracle says."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            time.sleep(4.0)
            change()
            time.sleep(3.0)
        except BaseException as error:  # noqa: BLE001 - raised again below, on the thread of the test
            failures.append(error)

    worker = threading.Thread(target=work, daemon=True)
    with Campaign(stack.plan, tmp_path_factory.mktemp(name), name) as campaign:
        worker.start()
        traffic = endless(name, RATE, seed=7, start_ms=now_ms(), is_over=lambda: not worker.is_alive(), users=300, merchants=30)
        campaign.drive(traffic)
        worker.join()
        if failures:
            raise failures[0]
        campaign.settle()
        verdict = campaign.verdict()
    assert verdict.anomalies == CLEAN, verdict.examples
    return campaign


def ticket_of(stack: Stack) -> JobTicket:
    ticket = scoring_job.ticket_of(stack.plan)
    assert ticket is not None
    return ticket


def taskmanagers(stack: Stack) -> list[str]:
    """Those that Flink knows."""
    return sorted(entry["id"] for entry in read_json_url(f"{stack.addresses.flink_rest_url}/taskmanagers", 15.0)["taskmanagers"])


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.2)


def test_a_rescale_down_and_up_under_traffic_loses_and_repeats_nothing(system: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    seen: list[tuple[int, list[str]]] = []

    def change() -> None:
        for parallelism in (1, 2):
            done = job_change.rescale(system, parallelism, silent)
            assert (done.before, done.after) == (3 - parallelism, parallelism)
            seen.append((scoring_job.state_of(system.plan).parallelism, taskmanagers(system)))
            time.sleep(3.0)

    under_traffic(system, tmp_path_factory, "rescale", change)
    assert seen == [(1, ["taskmanager-1"]), (2, ["taskmanager-1", "taskmanager-2"])]
    assert job_change.rescale(system, 2, silent).savepoint is None, "it runs so already"


def test_a_parallelism_beyond_the_shards_is_refused_and_the_job_does_not_notice(system: Stack) -> None:
    before = scoring_job.state_of(system.plan)
    with pytest.raises(Denied, match="shards"):
        job_change.rescale(system, scoring_job.shards_of(system.plan) + 1, silent)
    assert scoring_job.state_of(system.plan) == before


def test_the_choice_outlives_a_lost_jobmanager_and_down_and_up(system: Stack) -> None:
    job_change.rescale(system, 1, silent)
    system.down()
    bring_up(Stack(system.layout.home, StackSettings.on_free_ports(taskmanagers=2)), silent)
    state = scoring_job.state_of(system.plan)
    assert (state.parallelism, taskmanagers(system)) == (1, ["taskmanager-1"])
    job_change.rescale(system, 2, silent)


def test_a_stop_whose_owner_died_is_mended_by_the_supervisor_from_the_savepoint(
    system: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed between the savepoint and the next submission, in the worst instant: nobody has written the savepoint down.

    To go on from the newest checkpoint would repeat what the job committed as it stopped.
    """
    used: list[str] = []

    def change() -> None:
        before = ticket_of(system)
        location = scoring_job.stop_with_savepoint(system.plan)  # what a rescale does, without its next step
        assert find_newest_checkpoint(system.layout, before) == location
        wait_for(lambda: len(ticket_of(system).job_ids) > len(before.job_ids), "a job submitted by the supervisor")
        scoring_job.wait_until_running(system.plan)
        job_id = scoring_job.state_of(system.plan).job_id
        restored = read_json_url(f"{system.addresses.flink_rest_url}/jobs/{job_id}/checkpoints", 15.0)["latest"]["restored"]
        used.extend((location, restored["external_path"]))

    under_traffic(system, tmp_path_factory, "orphan", change)
    assert used[0].rstrip("/").rsplit("/", 1)[-1] == used[1].rstrip("/").rsplit("/", 1)[-1]


def test_a_job_stopped_on_purpose_stays_away_until_it_is_started(system: Stack) -> None:
    scoring_job.stop(system.plan, with_savepoint=True)
    time.sleep(12.0)  # more than two looks of the supervisor
    assert [job for job in read_jobs(system.addresses.flink_rest_url, 15.0) if job.name == JOB_NAME] == []
    assert [(job.name, job.state) for job in system.status().jobs] == [(JOB_NAME, "STOPPED")]
    assert scoring_job.ensure_running(system.plan).all_run


def test_a_job_that_does_not_come_up_in_its_new_size_runs_again_in_the_old_one(
    system: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The ticket's settings are spoilt for exactly the new parallelism, so that its job is refused at submission."""
    kept = ticket_of(system)
    spoilt = replace(kept, resume="tests.integration.spoilt_job:resume_unless_one")
    save_ticket(system.layout, spoilt)

    def change() -> None:
        with pytest.raises(Unavailable, match="runs again as before"):
            job_change.rescale(system, 1, silent)

    under_traffic(system, tmp_path_factory, "refused", change)
    state = scoring_job.state_of(system.plan)
    assert (state.parallelism, taskmanagers(system)) == (2, ["taskmanager-1", "taskmanager-2"])
    save_ticket(system.layout, replace(ticket_of(system), resume=kept.resume))
