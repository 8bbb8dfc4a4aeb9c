"""Watches the deletions that the sink has asked for: ClickHouse does them in the background, and tells nobody when it cannot.

It tries such a one again for as long as it lives, and meanwhile what was to be erased stays where it is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from analytics.store import Store
from fraud.errors import Unavailable

__all__ = ["DeletionWatch"]


class DeletionWatch:
    """Asks ``store`` every so often, which is its own: the sink's may wait for a batch for a minute.

    Attributes:
        failing: how many deletions fail, by table; empty while ClickHouse does not answer, which the sink tells.
    """

    def __init__(self, store: Store, *, every_s: float = 30.0) -> None:
        self.failing: Mapping[str, int] = {}
        self._store = store
        self._every_s = every_s

    def run(self, stopping: threading.Event) -> None:
        """Ask until ``stopping`` is set."""
        while not stopping.is_set():
            self.look()
            stopping.wait(self._every_s)
        self._store.close()

    def look(self) -> None:
        """Ask once."""
        try:
            self.failing = self._store.failing_deletions()
        except Unavailable:
            self.failing = {}
