"""A rescale and an upgrade as an operator meets them: under traffic, by command, and when something goes wrong on the way.

The stack runs from a copy of the checkout, whose code the tests may change and break.  The oracle compares what was acknowledged with
what was committed, and computes every feature and score again from the logs: a state that was lost, doubled or mixed up in between
cannot pass as gap 0 and diff 0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flink_jobs.settings import JOB_NAME
from infra import scoring_job
from infra.campaign import Campaign, endless
from infra.jobs import JobTicket, find_newest_checkpoint, read_jobs, save_ticket
from infra.oracle import ANOMALIES
from infra.probes import read_json_url
from infra.records import load_records
from infra.settings import PORT_FIELDS, REPO_ROOT, default_home
from infra.stack import Stack
from serving.clock import now_ms
from tests.private_stack import put_small_model_into_production

pytestmark = pytest.mark.slow

CLEAN = dict.fromkeys(ANOMALIES, 0)
RATE = 100.0
PATIENCE_S = 120.0
ANSWER_S = 15.0


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.2)


@dataclass
class System:
    """A stack, and the copy of the checkout that it runs from."""

    stack: Stack
    checkout: Path
    folder: Path

    def command(self, *arguments: str, status: int = 0) -> tuple[dict[str, Any], str]:
        """Run a command as a person does; returns its JSON, if any, and what it said on standard error."""
        environment = {
            **os.environ,
            **{f"FRAUDGUARD_{name.upper()}": "0" for name in PORT_FIELDS},
            "FRAUDGUARD_SHARDS": "2",
            "FRAUDGUARD_HOME": str(self.stack.layout.home),
            "FRAUDGUARD_JARS_DIR": str(default_home() / "jars"),
            "PYTHONPATH": str(self.checkout),
        }
        command = [sys.executable, "-m", "cli", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == status, done.stderr[-4000:]
        return (json.loads(done.stdout) if done.stdout.strip() else {}), done.stderr

    def change(self, file: str, old: str, new: str) -> str:
        """Commit a change to the code; returns the version that decisions should then carry."""
        path = self.checkout / file
        text = path.read_text()
        assert text.count(old) == 1, f"{text.count(old)} times in {file}: {old}"
        path.write_text(text.replace(old, new))
        self.git("commit", "-qam", f"change {file}")
        return self.git("describe", "--always", "--abbrev=12")

    def git(self, *arguments: str) -> str:
        author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        return subprocess.run(["git", *author, *arguments], cwd=self.checkout, capture_output=True, text=True, check=True).stdout.strip()

    def ticket(self) -> JobTicket:
        ticket = scoring_job.ticket_of(self.stack.plan)
        assert ticket is not None
        return ticket

    def taskmanagers(self) -> list[str]:
        """Those that Flink knows."""
        return sorted(entry["id"] for entry in self.ask("taskmanagers")["taskmanagers"])

    def ask(self, path: str) -> Any:
        return read_json_url(f"{self.stack.addresses.flink_rest_url}/{path}", ANSWER_S)

    def under_traffic(self, name: str, change: Callable[[], None]) -> Counter[str]:
        """Send for as long as ``change`` takes and let the oracle judge; returns how many decisions each version of the code made."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                time.sleep(4.0)
                change()
                time.sleep(3.0)
            except BaseException as error:  # noqa: BLE001 - raised again below, on the thread of the test
                failures.append(error)

        worker = threading.Thread(target=work, daemon=True)
        with Campaign(self.stack.plan, self.folder, name) as campaign:
            worker.start()
            traffic = endless(name, RATE, seed=7, start_ms=now_ms(), is_over=lambda: not worker.is_alive(), users=300, merchants=30)
            campaign.drive(traffic)
            worker.join()
            if failures:
                raise failures[0]
            campaign.settle()
            verdict = campaign.verdict()
            assert verdict.anomalies == CLEAN, verdict.examples
            assert verdict.decided > RATE
            return Counter(decision.code_version for decision in campaign.decisions())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("change")
    checkout = folder / "checkout"
    shutil.copytree(REPO_ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".fraudguard", "__pycache__", ".*_cache"))
    stack = Stack(folder / "home")
    running = System(stack, checkout, folder)
    running.git("init", "-q")
    running.git("add", "-A")
    running.git("commit", "-qm", "as it was")
    put_small_model_into_production(stack)
    try:
        running.command("up")
        yield running
    finally:
        stack.down()


def test_a_rescale_down_and_up_under_traffic_loses_and_repeats_nothing(system: System) -> None:
    seen: list[tuple[int, list[str]]] = []

    def change() -> None:
        for before, after in ((2, 1), (1, 4), (4, 2)):
            done, _ = system.command("job", "rescale", str(after))
            assert (done["before"], done["after"]) == (before, after)
            seen.append((scoring_job.state_of(system.stack.plan).parallelism, system.taskmanagers()))
            time.sleep(3.0)

    system.under_traffic("rescale", change)
    assert seen == [(min(number, 2), [f"taskmanager-{one}" for one in range(1, number + 1)]) for number in (1, 4, 2)]
    assert system.command("job", "rescale", "2")[0]["savepoint"] is None, "it runs so already"


def test_a_taskmanager_without_a_shard_is_refused_and_the_job_does_not_notice(system: System) -> None:
    before = scoring_job.state_of(system.stack.plan).job_id
    _, said = system.command("job", "rescale", str(system.stack.plan.settings.shards + 1), status=1)
    assert "shards" in said
    assert scoring_job.state_of(system.stack.plan).job_id == before


def test_the_chosen_number_outlives_a_lost_jobmanager_and_down_and_up(system: System) -> None:
    system.command("job", "rescale", "1")
    jobs = system.ticket().job_ids
    pid = load_records(system.stack.layout)["jobmanager"].pid
    assert pid is not None
    os.kill(pid, 9)
    wait_for(lambda: len(system.ticket().job_ids) > len(jobs), "a job submitted by the supervisor")
    assert scoring_job.wait_until_running(system.stack.plan).parallelism == 1
    system.command("down")
    system.command("up")
    assert (scoring_job.state_of(system.stack.plan).parallelism, system.taskmanagers()) == (1, ["taskmanager-1"])
    system.command("job", "rescale", "2")


def test_a_stop_whose_owner_died_is_mended_by_the_supervisor_from_the_savepoint(system: System) -> None:
    """Killed between the savepoint and the next submission, in the worst instant: nobody has written the savepoint down.

    To go on from the newest checkpoint would repeat what the job committed as it stopped.
    """
    used: list[str] = []

    def change() -> None:
        before = system.ticket()
        location = scoring_job.stop_with_savepoint(system.stack.plan)  # what a rescale does, without its next step
        used.extend((location, str(find_newest_checkpoint(system.stack.layout, before))))
        wait_for(lambda: len(system.ticket().job_ids) > len(before.job_ids), "a job submitted by the supervisor")
        job_id = scoring_job.wait_until_running(system.stack.plan).job_id
        used.append(system.ask(f"jobs/{job_id}/checkpoints")["latest"]["restored"]["external_path"])

    system.under_traffic("orphan", change)
    assert len({path.rstrip("/").rsplit("/", 1)[-1] for path in used}) == 1, used


def test_a_job_stopped_on_purpose_stays_away_until_it_is_started(system: System) -> None:
    system.command("job", "stop")
    time.sleep(12.0)  # more than two looks of the supervisor
    assert [job for job in read_jobs(system.stack.addresses.flink_rest_url, ANSWER_S) if job.name == JOB_NAME] == []
    assert [(job["name"], job["state"]) for job in system.command("status")[0]["jobs"]] == [(JOB_NAME, "STOPPED")]
    system.command("job", "start")


def test_a_job_that_does_not_come_up_in_its_new_size_runs_again_in_the_old_one(system: System) -> None:
    """The entry of the ticket accepts no job on one TaskManager."""
    kept = system.ticket().resume
    save_ticket(system.stack.layout, replace(system.ticket(), resume="tests.integration.spoilt_job:resume_unless_one"))

    def change() -> None:
        _, said = system.command("job", "rescale", "1", status=1)
        assert "runs again as before" in said

    system.under_traffic("refused", change)
    assert (scoring_job.state_of(system.stack.plan).parallelism, system.taskmanagers()) == (2, ["taskmanager-1", "taskmanager-2"])
    save_ticket(system.stack.layout, replace(system.ticket(), resume=kept))


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("flink_jobs/score.py", '.name("observe").uid("observe")', '.name("observe")', "state of observe"),
        ("flink_jobs/score.py", "CROSS JOIN UNNEST(shards)", "CROSS JOIN UNNEST(nothing)", "cannot be laid out"),
    ],
    ids=["an operator without its uid", "a job that cannot be planned"],
)
def test_an_upgrade_that_would_lose_state_is_refused_before_anything_is_stopped(
    system: System, file: str, old: str, new: str, reason: str
) -> None:
    before = scoring_job.state_of(system.stack.plan)
    system.change(file, old, new)
    try:
        _, said = system.command("job", "upgrade", status=1)
        assert reason in said
        assert "othing was stopped" in said
    finally:
        system.git("revert", "--no-edit", "HEAD")
    after = scoring_job.state_of(system.stack.plan)
    assert (after.job_id, after.all_run) == (before.job_id, True)


def test_an_upgrade_under_traffic_keeps_the_state_and_runs_the_new_code(system: System) -> None:
    """The change is in a module that the TaskManagers have long loaded: submitting again would not bring it."""
    version: list[str] = []

    def change() -> None:
        new = system.change("flink_jobs/assembly.py", 'Scorer("stream", settings.code_version)', 'Scorer("stream", "new code")')
        refused = system.command("job", "rescale", "1", status=1)[1]
        assert "job upgrade comes first" in refused
        done, _ = system.command("job", "upgrade")
        version.extend((done["before"], done["after"]))
        assert version[1] == new

    made = system.under_traffic("upgrade", change)
    assert made.keys() == {version[0], "new code"}
    assert min(made.values()) > RATE


BREAK = ("flink_jobs/operators.py", "        sys.setswitchinterval(SWITCH_INTERVAL_S)", '        raise ValueError("broken on purpose")')


def test_code_that_does_not_run_leaves_a_stopped_job_with_its_state_and_the_root_of_the_failure(system: System) -> None:
    def change() -> None:
        system.change(*BREAK)
        _, said = system.command("job", "upgrade", status=1)
        assert "ValueError: broken on purpose" in said
        assert "job start continues" in said
        assert [job["state"] for job in system.command("status")[0]["jobs"]] == ["STOPPED"]
        system.git("revert", "--no-edit", "HEAD")
        system.command("job", "start")

    system.under_traffic("broken", change)


def test_a_job_that_fails_again_and_again_tells_why_and_is_mended_by_an_upgrade(system: System) -> None:
    """A TaskManager that was restarted has loaded broken code: no savepoint can be had, and the newest checkpoint is as good."""

    def failures() -> str:
        return "".join(job.detail for job in system.stack.status().jobs)

    def change() -> None:
        system.change(*BREAK)
        pid = load_records(system.stack.layout)["taskmanager-1"].pid
        assert pid is not None
        os.kill(pid, 9)
        wait_for(lambda: "ValueError: broken on purpose" in failures(), "the root of the failure in status")
        system.git("revert", "--no-edit", "HEAD")
        system.command("job", "upgrade")

    system.under_traffic("loop", change)
    assert failures() == ""
