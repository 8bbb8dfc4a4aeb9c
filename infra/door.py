"""A share of a run's transactions through the API, each when it is due, and how its answers compare with the ledger.

The load is open-loop like the driver's: an answer that is late makes nobody wait but itself, and its latency counts from the schedule.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2

from api.client import ApiProblem, Client
from api.schemas import ScoreRequest
from fraud.events import Transaction
from generator.driver import Outgoing
from infra.percentiles import percentiles_ms
from serving.records import Decision
from serving.skew import is_fresh

__all__ = ["Compared", "Door", "report", "score_request"]

_CALLERS = 8  # at once: a call takes milliseconds, and one that takes longer must not hold up the next
_API = "api"


def score_request(tx: Transaction) -> ScoreRequest:
    """A transaction as its caller asks about it."""
    values = {name: getattr(tx, name) for name in ScoreRequest.model_fields}
    return ScoreRequest(**{name: value for name, value in values.items() if value is not None})


class Door:
    """Asks the API about some transactions of one tenant in place of sending them.

    Args:
        client: of that tenant.
        tenant_id: whose transactions may go this way.
        share: of the tenant's transactions, 0 to 1, evenly spread.
        clock: wall clock in seconds.

    Attributes:
        sent_ids: decision id to transaction id of what was answered.
        answered_ms: decision id to wall clock of the answer.
        latencies_ms: from schedule to answer.
        refused: what was not answered, by the problem's code.
    """

    def __init__(self, client: Client, tenant_id: str, share: float, *, clock: Callable[[], float] = time.time) -> None:
        self.sent_ids: dict[str, str] = {}
        self.answered_ms: dict[str, float] = {}
        self.latencies_ms: list[float] = []
        self.refused: Counter[str] = Counter()
        self._client = client
        self._tenant_id = tenant_id
        self._share = share
        self._clock = clock

    def divert(self, outgoing: Iterable[Outgoing]) -> Iterator[Outgoing]:
        """Pass on what does not go this way; ends when every question has its answer."""
        begun_s, owed = self._clock(), 0.0
        with ThreadPoolExecutor(_CALLERS, thread_name_prefix="door") as callers:
            for item in outgoing:
                tx = item.record
                if isinstance(tx, Transaction) and tx.tenant_id == self._tenant_id:
                    owed += self._share
                    if owed >= 1.0:
                        owed -= 1.0
                        callers.submit(self._ask, tx, begun_s + item.due_s)
                        continue
                yield item

    def _ask(self, tx: Transaction, due_s: float) -> None:
        time.sleep(max(0.0, due_s - self._clock()))
        try:
            answer = self._client.score(score_request(tx))
        except ApiProblem as problem:
            self.refused[problem.code] += 1
            return
        except httpx2.HTTPError as error:
            self.refused[type(error).__name__] += 1
            return
        now_s = self._clock()
        self.latencies_ms.append(1e3 * (now_s - due_s))
        self.sent_ids[answer.decision_id] = tx.transaction_id
        self.answered_ms[answer.decision_id] = 1e3 * now_s


@dataclass(slots=True)
class Compared:
    """The API's scores against the stream's own, as the ledger has both.

    Where the answer had read all that stood before its event (``fresh``) both are one number; where the store was a few milliseconds
    behind (``stale``) they may differ, and the ledger says what each had read.  ``overtaken``: the stream had decided first.
    """

    fresh: int = 0
    stale: int = 0
    overtaken: int = 0
    fresh_skew: float = 0.0
    stale_differing: int = 0
    stale_skew: float = 0.0

    @classmethod
    def of(cls, decisions: Iterable[Decision], answered: Iterable[str]) -> Compared:
        """Compare the committed ``decisions`` of the ids that the API has ``answered``."""
        found, wanted = cls(), frozenset(answered)
        for decision in decisions:
            if decision.decision_id in wanted:
                found._take(decision)
        return found

    def _take(self, decision: Decision) -> None:
        if decision.door != _API or decision.stream_score is None:
            self.overtaken += 1
            return
        skew = abs(decision.score - decision.stream_score)
        if is_fresh(decision.served_at, decision.entities):
            self.fresh += 1
            self.fresh_skew = max(self.fresh_skew, skew)
        else:
            self.stale += 1
            self.stale_differing += skew > 0
            self.stale_skew = max(self.stale_skew, skew)


def report(door: Door, compared: Compared) -> dict[str, Any]:
    """What ``demo --json`` says of this door."""
    return {
        "answered": len(door.latencies_ms),
        "refused": dict(sorted(door.refused.items())),
        "latency_ms": percentiles_ms(door.latencies_ms),
        "fresh": compared.fresh,
        "fresh_skew": compared.fresh_skew,
        "stale": compared.stale,
        "stale_differing": compared.stale_differing,
        "stale_skew": compared.stale_skew,
        "overtaken": compared.overtaken,
    }
