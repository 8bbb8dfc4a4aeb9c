"""``bench backtest``: how long a draft with a window of its own takes over a ledger of generated decisions, each recorded to the bit.

The ledger is written to a file, by the codec and in the order of the topics, and read from there: what a broker takes of the time is
not in it.  Nothing that runs is needed.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analytics.backtest import backtest
from analytics.history import DECISION_FIELDS
from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, entities_of, entity_key
from fraud.rules import RuleSet
from generator.generate import demo_history
from infra.bench_basis import machine
from serving import ledger
from serving.codec import Codec
from serving.enrich import Enricher
from serving.history import labels_from_history, to_transactions
from serving.model import Model
from serving.records import EntityPosition, LabelApplied
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from serving.schemas import SCHEMAS
from serving.scoring import Scorer, ScoringInput
from training import backfill, ledger_history
from training.enrichment import enrich_frame

__all__ = ["run"]

_SEED = 7
_WRITTEN_AT_ONCE = 5_000
_LABEL_DELAY_MS = 3 * 86_400_000
_FRAME = struct.Struct("<BI")  # of a record in the file: its topic and its length
_TOPICS = (ledger.DECISIONS, ledger.LABELS_APPLIED)
_LABELLED_IDS = ("card_id", "user_id", "merchant_id")  # in the order of LABELLED
_NEW_RULE = {
    "id": "bench_window",
    "name": "Merchants within a window that nobody has computed",
    "when": "card_distinct_merchant_37m >= 3 and amount_usd > 5",
    "score": 0.5,
    "floor": "CHALLENGE",
    "reason_code": "VELOCITY",
    "message": "{card_distinct_merchant_37m} merchants in 37 minutes",
}

Say = Callable[[str], None]


def run(model: Model, enricher: Enricher, *, events: int, start_ms: int, folder: Path, say: Say) -> dict[str, Any]:
    """Measure over a month of ``events`` decisions before ``start_ms``; the file goes into ``folder``, 1.9 GB of a million."""
    codec = Codec({name: number for number, name in enumerate(SCHEMAS, start=1)})
    live = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    draft = RuleSet.parse({"rules": [*(rule.to_plain() for rule in live.rules), _NEW_RULE]}, CATALOGUE.index)
    with TemporaryDirectory(dir=folder) as held:
        path = Path(held) / "ledger"
        say(f"{events:,} decisions of a month")
        with path.open("wb") as file:
            for topic, value in _decided(model, enricher, live, codec, events, start_ms):
                file.write(_FRAME.pack(_TOPICS.index(topic), len(value)) + value)
        stages = _Stages(say)
        stages.begin("reading")
        history = ledger_history.load(_records(path), codec, DECISION_FIELDS)
        stages.begin("checking that nothing is missing")
        result = backtest(
            history,
            draft,
            rules_of={live.hash: live}.__getitem__,
            model_of={model.sha256: model}.__getitem__,
            on_step=lambda text, _total: stages.begin(text),
        )
        stages.end()
    return {
        "decisions": len(history.events),
        "reproduced": result.reproduction.equal,
        "fired": len(result.fired.get(str(_NEW_RULE["id"]), ())),
        "seconds": round(sum(stages.seconds.values()), 2),
        "decisions_per_s": round(len(history.events) / sum(stages.seconds.values())),
        "stages": {
            name: {"seconds": round(seconds, 2), "cpu_us_per_decision": round(stages.cpu_s[name] / len(history.events) * 1e6, 2)}
            for name, seconds in stages.seconds.items()
        },
        "machine": machine(),
    }


class _Stages:
    """Times one stage after the other."""

    def __init__(self, say: Say) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self._say = say
        self._current: tuple[str, float, float] | None = None

    def begin(self, name: str) -> Callable[[float], None]:
        """End the stage before; returns what hears of progress and does not listen."""
        self.end()
        self._say(name)
        self._current = name, time.perf_counter(), time.process_time()
        return lambda _done: None

    def end(self) -> None:
        if self._current is not None:
            name, began_s, began_cpu_s = self._current
            self.seconds[name], self.cpu_s[name] = time.perf_counter() - began_s, time.process_time() - began_cpu_s
            self._current = None


def _records(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb", buffering=1 << 20) as file:
        while head := file.read(_FRAME.size):
            topic, length = _FRAME.unpack(head)
            yield _TOPICS[topic], file.read(length)


def _decided(model: Model, enricher: Enricher, rules: RuleSet, codec: Codec, events: int, start_ms: int) -> Iterator[tuple[str, bytes]]:
    """What the stream would have recorded if it had applied a history in the order of its file."""
    frame = enrich_frame(demo_history(events, seed=_SEED, start_ms=start_ms), enricher)
    labels = labels_from_history(frame, _LABEL_DELAY_MS)
    matrix, table = backfill.event_matrix(frame), backfill.label_table(labels)
    computed = backfill.run(matrix, table, backfill.file_order(matrix, table))
    scorer = Scorer("stream", "bench")
    for start in range(0, frame.height, _WRITTEN_AT_ONCE):
        part = slice(start, start + _WRITTEN_AT_ONCE)
        transactions, features, seqs = to_transactions(frame, part.start, part.stop), computed.features[part], computed.seqs[part].tolist()
        positions = [
            [EntityPosition(KINDS[kind], key, mine[kind]) for kind, key in entities_of(tx)]
            for tx, mine in zip(transactions, seqs, strict=True)
        ]
        size = len(transactions)
        batch = ScoringInput(transactions, features, [False] * size, positions, [[]] * size)
        for decision in scorer.score(batch, rules, model):
            yield ledger.DECISIONS, codec.encode_decision(decision)
    for label, mine in zip(labels.iter_rows(named=True), computed.label_seqs.tolist(), strict=True):
        yield ledger.LABELS_APPLIED, codec.encode_label_applied(_applied(label, mine))


def _applied(label: dict[str, Any], seqs: list[int]) -> LabelApplied:
    entities = [
        EntityPosition(KINDS[kind], entity_key(label["tenant_id"], label[column]), seqs[kind])
        for kind, column in zip(backfill.LABELLED, _LABELLED_IDS, strict=True)
        if label[column] is not None
    ]
    names = ("transaction_id", "tenant_id", "is_fraud", "label_time_ms", "transaction_time_ms", "source")
    return LabelApplied(**{name: label[name] for name in names}, entities=entities)
