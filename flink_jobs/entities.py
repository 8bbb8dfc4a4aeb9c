"""The entity logs of one operator: kept in Flink's state, cached decoded, copied to the online store.

The operator is the only writer of its keys, so a state once read is served from memory, and one that was never written is not looked
for; every change is written back to Flink before the batch ends, which is what a checkpoint sees.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from flink_jobs.cores import ByteMap
from flink_jobs.known_entities import KnownEntities
from flink_jobs.reemit import IDLE_MS, Reemission, map_key
from fraud.extra import ExtraFeatures
from fraud.kernel import empty_state, has_transaction
from fraud.state import decode_state, encode_state, erased_state, state_seq, state_time_ms
from fraud.vector import Evaluator
from serving.online_feed import OnlineFeed

__all__ = ["EntityLogs"]

Key = tuple[int, str]


class EntityLogs:
    """Observes events and labels for entities of any kind, one map and one online store behind it.

    Args:
        evaluator: the kernel with its working memory.
        feed: of the online store, or None to keep states in Flink alone.
        cache_entries: decoded states kept in memory, least recently used out first.
    """

    def __init__(self, evaluator: Evaluator, feed: OnlineFeed | None, cache_entries: int) -> None:
        self._evaluator = evaluator
        self._feed = feed
        self._known = KnownEntities()
        self._reemission = None if feed is None else Reemission(feed, self._known)
        self._cache_entries = cache_entries
        self._cache: OrderedDict[Key, NDArray[np.int64]] = OrderedDict()
        self._changed: dict[Key, NDArray[np.int64]] = {}

    def knows(self, states: ByteMap, kind: int, key: str, tx_hash: int) -> bool:
        """Whether the entity's log holds this transaction already."""
        return bool(has_transaction(self._load(states, kind, key), tx_hash))

    def observe(self, states: ByteMap, kind: int, key: str, row: NDArray[np.int64], out: NDArray[np.float64]) -> int:
        """Apply an event, write the kind's features to ``out``, and return the number at which the log stands now."""
        state = self._evaluator.observe(kind, self._load(states, kind, key), row, out)
        return self._keep((kind, key), state)

    def peek(self, states: ByteMap, kind: int, key: str, row: NDArray[np.int64], extra: ExtraFeatures, out: NDArray[np.float64]) -> None:
        """Write the kind's extra features as of an event that is not applied yet; changes nothing."""
        extra.peek(kind, self._load(states, kind, key), row, out)

    def label(self, states: ByteMap, kind: int, key: str, tx_time_ms: int, tx_hash: int, is_fraud: bool) -> int:
        """Apply a label and return the number at which the log stands now."""
        state = self._evaluator.label(kind, self._load(states, kind, key), tx_time_ms, tx_hash, is_fraud)
        return self._keep((kind, key), state)

    def erase(self, states: ByteMap, kind: int, key: str) -> int:
        """Forget the entity, all but the number at which its log stands now, which is returned."""
        return self._keep((kind, key), erased_state(state_seq(self._load(states, kind, key)) + 1))

    def commit(self, states: ByteMap, **others: bytes) -> None:
        """Write every changed state to Flink and hand it to the online store's feed: once a batch, however often it changed.

        ``others`` are entries of the same map that the caller keeps beside the entities, by name.
        """
        entries: dict[str, bytes] = others
        for (kind, key), state in self._changed.items():
            data = entries[map_key(kind, key)] = encode_state(state, kind)
            if self._feed is not None:
                self._feed.put(kind, key, data, state_seq(state), state_time_ms(state))
        if entries:
            states.put_all(entries)
        self._changed.clear()
        self._evict()

    def own(self, shards: list[int]) -> None:
        """These shards' states are this instance's, and go through it to the online store."""
        self._known.own(shards)
        if self._feed is not None:
            self._feed.own(shards)

    def heal(self, shard: int, states: ByteMap) -> int:
        """Give the online store a little of what it lost of a shard; returns in how many ms the next turn is due."""
        return IDLE_MS if self._reemission is None else self._reemission.turn(shard, states)

    def close(self) -> None:
        """Let the online store have what it does not have yet."""
        if self._feed is not None:
            self._feed.close()

    def _load(self, states: ByteMap, kind: int, key: str) -> NDArray[np.int64]:
        cached = self._cache.get((kind, key))
        if cached is not None:
            return cached
        if self._known.is_new(kind, key):
            return empty_state()
        data = states.get(map_key(kind, key))
        return empty_state() if data is None else decode_state(data, kind)

    def _keep(self, key: Key, state: NDArray[np.int64]) -> int:
        self._cache[key] = state
        self._cache.move_to_end(key)
        self._changed[key] = state
        return state_seq(state)

    def _evict(self) -> None:
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)
