"""A sink in a process of its own, for tests that kill it; started through a fork server that has everything imported already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess

import pyarrow as pa

from analytics.lag import Place
from analytics.settings import HouseSettings
from analytics.sink import Sink, SinkSettings
from analytics.store import Store
from tests import wire_samples as wire

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.sink_process"])


class DyingStore(Store):
    """Kills its process with SIGKILL where a batch is in ClickHouse and its offsets are not.

    A batch that is nothing but the markers of transactions has no rows to be written twice, and does not count.
    """

    def __init__(self, settings: HouseSettings, after_batches: int) -> None:
        super().__init__(settings)
        self._left, self._wrote = after_batches, False

    def write(self, tables: Mapping[str, pa.Table], token: str) -> None:
        self._wrote |= "sink_offsets" not in tables
        super().write(tables, token)

    def save(self, offsets: Mapping[Place, int]) -> None:
        self._die_when_due()
        super().save(offsets)

    def _die_when_due(self) -> None:
        self._left -= self._wrote
        self._wrote = False
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


class HastyStore(DyingStore):
    """The control: it remembers a batch's offsets before the rows, and dies between the two."""

    def __init__(self, settings: HouseSettings, after_batches: int) -> None:
        super().__init__(settings, after_batches)
        self._held: list[tuple[Mapping[str, pa.Table], str]] = []

    def write(self, tables: Mapping[str, pa.Table], token: str) -> None:
        if "sink_offsets" in tables:
            super().write(tables, token)
        else:
            self._wrote = True
            self._held.append((tables, token))

    def save(self, offsets: Mapping[Place, int]) -> None:
        Store.save(self, offsets)
        self._die_when_due()
        for tables, token in self._held:
            Store.write(self, tables, token)
        self._held = []


def start(
    house: HouseSettings, settings: SinkSettings, dies_after_batches: int | None = None, store: type[DyingStore] = DyingStore
) -> ForkServerProcess:
    """A sink that runs until it is terminated, or dies by itself as its ``store`` does."""
    process = _CONTEXT.Process(target=_run, args=(house, settings, dies_after_batches, store), daemon=True)
    process.start()
    return process


def _run(house: HouseSettings, settings: SinkSettings, dies_after_batches: int | None, dying: type[DyingStore]) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    store = Store(house) if dies_after_batches is None else dying(house, dies_after_batches)
    Sink(settings, wire.codec(), store, stopping).run()
    store.close()
