"""Where recorded decisions come from: one interface, over the ledger's topics and over the lake.

A source gives decisions with what they recorded, the labels that were applied, and the numbers at which each entity's log stood.
Where it has them from nobody behind the interface knows: not the backtest, not the backfill, not the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from analytics.lake import Lake
from fraud.rules import CONTEXT_FIELDS, FIELDS
from serving import ledger
from serving.codec import Codec
from training.ledger_history import LEDGER_TOPICS, LedgerHistory, load

__all__ = ["DECISION_FIELDS", "HIT_FIELDS", "EventHistory", "LakeRecords", "LedgerTopics"]

HIT_FIELDS = ("rule_id", "reason_code", "severity", "score", "floor", "mode", "message")
# what a backtest asks for of each decision, beside what every history has
DECISION_FIELDS = (
    *("decision_id", "outcome", "score", "model_score", "model_raw", "rules_score", "floor", "degraded", "late_event", "door"),
    *("model_sha256", "rule_set_hash", "anomaly_score", "blacklisted.item", "extra_features.name", "extra_features.value"),
    *(f"rules.{name}" for name in HIT_FIELDS),
    *(f"transaction.{name}" for name in FIELDS if name not in CONTEXT_FIELDS),
)
_SAY_EVERY = 5_000

Progress = Callable[[float], None]


class EventHistory(Protocol):
    """A source of recorded decisions and applied labels, from the first on."""

    def count(self) -> int:
        """About how many records :meth:`read` will read; for a progress bar."""
        ...

    def read(self, on_read: Progress, also: Sequence[str] = ()) -> LedgerHistory:
        """Everything that was recorded, with further fields of each decision where they are asked for.

        Raises:
            InvalidEvent: a record that is none.
            Unavailable: the source does not answer.
            Denied: there is nothing to read from.
        """
        ...


class LedgerTopics:
    """The committed ledger itself."""

    def __init__(self, bootstrap: str, codec: Codec) -> None:
        self._bootstrap = bootstrap
        self._codec = codec

    def count(self) -> int:
        """See :class:`EventHistory`: transaction markers count too."""
        return sum(place.offset for place in ledger.end_offsets(self._bootstrap, LEDGER_TOPICS))

    def read(self, on_read: Progress, also: Sequence[str] = ()) -> LedgerHistory:
        """See :class:`EventHistory`."""
        return load(self._values(on_read), self._codec, also)

    def _values(self, on_read: Progress) -> Iterator[tuple[str, bytes | None]]:
        messages = ledger.read_to_end(self._bootstrap, LEDGER_TOPICS)
        return _told(((str(message.topic()), message.value()) for message in messages), on_read)


class LakeRecords:
    """The lake, which keeps the ledger's records longer than Kafka does.

    Where somebody was erased, the logs of everybody whom they met have gaps: nothing can be computed again, and what was served remains.
    """

    def __init__(self, lake: Lake, codec: Codec) -> None:
        self._lake = lake
        self._codec = codec

    def count(self) -> int:
        """See :class:`EventHistory`."""
        return sum(one.rows for one in self._lake.state() if one.holds_records)

    def read(self, on_read: Progress, also: Sequence[str] = ()) -> LedgerHistory:
        """See :class:`EventHistory`."""
        return load(_told(self._lake.records(), on_read), self._codec, also)


def _told(values: Iterable[tuple[str, bytes | None]], on_read: Progress) -> Iterator[tuple[str, bytes | None]]:
    for count, one in enumerate(values, start=1):
        if count % _SAY_EVERY == 0:
            on_read(count)
        yield one
