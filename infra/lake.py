"""The lake of the local stack: one writer at a time, in the stack's folder or wherever ``FRAUDGUARD_LAKE_URL`` says."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from analytics.lake import Lake
from analytics.lake_sync import Synced, sync
from fraud.errors import Unavailable
from infra.application import codec_of
from infra.layout import Layout
from infra.plan import Plan
from serving.clock import now_ms

__all__ = ["Tidied", "lake_of", "sync_lake", "tidy_lake"]

_URL = "FRAUDGUARD_LAKE_URL"


@dataclass(frozen=True, slots=True)
class Tidied:
    """What went: rows of days beyond the kept ones, small files that became one, files that no version needs any more."""

    expired_rows: int
    compacted_files: int
    removed_files: int


def lake_of(layout: Layout) -> Lake:
    """The lake; an object store takes its credentials from the environment, as deltalake does."""
    return Lake(os.environ.get(_URL) or str(layout.lake))


def sync_lake(plan: Plan, on_behind: Callable[[int], None]) -> Synced:
    """Bring the lake up to the ledger; raises Unavailable."""
    with _alone(plan.layout):
        return sync(plan.addresses.bootstrap_servers, codec_of(plan), lake_of(plan.layout), on_behind)


def tidy_lake(layout: Layout) -> Tidied:
    """Delete what is kept no longer, join small files and free what nobody needs; raises Unavailable."""
    lake = lake_of(layout)
    with _alone(layout):
        lake.finish_erasure()
        expired = lake.expire(datetime.fromtimestamp(now_ms() / 1_000, UTC).date())
        return Tidied(expired, sum(lake.compact().values()), lake.vacuum())


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Two writers would each be right and one of them refused: the second waits for nobody and says so."""
    with (layout.home / "lake.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable("lake", "another command is writing it") from None
        yield
