"""The scoring job as the fault tests run it: other settings, or with a safeguard taken out for a negative control.

``resume`` is the entry of the job's ticket, so the supervisor brings back exactly this variant after a kill.  A ticket's argument is
JSON: ``settings`` and ``core`` override fields of the job's settings, ``variant`` names an entry of ``VARIANTS``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyflink.datastream import DataStream

from flink_jobs import assembly, score
from flink_jobs.assembly import CoreSettings
from flink_jobs.infer import Infer
from flink_jobs.ingest import Ingest
from flink_jobs.observe import Observe
from flink_jobs.operators import InferOperator, IngestOperator, ObserveOperator
from flink_jobs.settings import JobSettings
from fraud.errors import InvalidEvent
from infra import scoring_job
from infra.jobs import JobTicket
from infra.plan import Plan
from serving.stream_metrics import StreamMetrics


class _Unguarded:
    """A codec whose refusals are no InvalidEvent: what a missing guard makes of a poison record."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def read_transaction(self, value: bytes | None) -> Any:
        try:
            return self._codec.read_transaction(value)
        except InvalidEvent as error:
            raise RuntimeError(str(error)) from error


def _without_dedup(core: Ingest) -> None:
    core._logs.knows = lambda *_: False  # type: ignore[method-assign]


def _without_guard(core: Ingest) -> None:
    core._codec = _Unguarded(core._codec)  # type: ignore[assignment]


def _without_clamp(core: Ingest) -> None:
    core._now_ms = lambda: 1 << 60


def _ingest_without(remove: Callable[[Ingest], None]) -> Callable[[CoreSettings, StreamMetrics], Ingest]:
    def build(settings: CoreSettings, metrics: StreamMetrics) -> Ingest:
        core = assembly.build_ingest(settings, metrics)
        remove(core)
        return core

    return build


def _without_healing(core: Ingest | Observe) -> None:
    core._logs.own = lambda _shards: None  # type: ignore[method-assign]


def _observe_without_healing(settings: CoreSettings, metrics: StreamMetrics) -> Observe:
    core = assembly.build_observe(settings, metrics)
    _without_healing(core)
    return core


class NoHealingIngest(IngestOperator):
    build = staticmethod(_ingest_without(_without_healing))


class NoHealingObserve(ObserveOperator):
    build = staticmethod(_observe_without_healing)


def _without_dedup_and_guard(core: Ingest) -> None:
    _without_dedup(core)
    _without_guard(core)


class CarelessIngest(IngestOperator):
    build = staticmethod(_ingest_without(_without_dedup_and_guard))


class NoClampIngest(IngestOperator):
    build = staticmethod(_ingest_without(_without_clamp))


class _Slow:
    """A sink that takes its time over each part while the file ``flag`` is there."""

    def __init__(self, core: Infer, flag: Path, pause_s: float) -> None:
        self._core = core
        self._flag = flag
        self._pause_s = pause_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def process(self, *arguments: Any) -> Any:
        if self._flag.exists():
            time.sleep(self._pause_s)
        return self._core.process(*arguments)


def slow_flag(settings: CoreSettings) -> Path:
    """Beside the models, where the workers find it."""
    return Path(settings.models_dir).parent / "slow"


def _slow_infer(settings: CoreSettings, metrics: StreamMetrics) -> Any:
    return _Slow(assembly.build_infer(settings, metrics), slow_flag(settings), pause_s=0.1)


class SlowInfer(InferOperator):
    build = staticmethod(_slow_infer)


VARIANTS: dict[str, score.Operators] = {
    "": score.SCORING,
    "no dedup, no guard": score.Operators(CarelessIngest, ObserveOperator, InferOperator),  # for two tests: a submission takes its time
    "no clamp": score.Operators(NoClampIngest, ObserveOperator, InferOperator),
    "no healing": score.Operators(NoHealingIngest, NoHealingObserve, InferOperator),
    "slow sink": score.Operators(IngestOperator, ObserveOperator, SlowInfer),
    "no uids": score.SCORING,
}


def resume(plan: Plan, ticket: JobTicket, checkpoint: str | None) -> str:
    """Submit the variant that the ticket asks for."""
    chosen = json.loads(ticket.arguments[0])
    settings = scoring_job.settings_of(plan)
    core = TypeAdapter(CoreSettings).validate_python({**asdict(settings.core), **chosen["core"]})
    settings = settings.model_copy(update={**chosen["settings"], "core": core, "restore_from": checkpoint})
    return scoring_job.submit(plan, ticket.name, "tests.faults.variant_job", settings.model_dump_json(), chosen["variant"])


def main(file: str, variant: str) -> None:
    """Imported by its name, so that the operators are pickled by reference and not by value."""
    from tests.faults import variant_job

    if variant == "no uids":
        DataStream.uid = lambda self, _uid: self  # type: ignore[method-assign]
    print(score.submit(JobSettings.model_validate_json(Path(file).read_text()), variant_job.VARIANTS[variant]))


if __name__ == "__main__":
    main(*sys.argv[1:])
