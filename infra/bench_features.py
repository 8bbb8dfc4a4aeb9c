"""``bench features``: what one event costs the parts that stream and request share, each alone, in one process and on one thread.

The least of several takes counts, in CPU time of the thread: whatever else the machine does only adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Entity, Transaction, entities_of
from fraud.kernel import empty_state
from fraud.state import decode_state, encode_state
from fraud.vector import Evaluator, event_row
from infra.bench_basis import Traffic, machine
from serving.codec import Codec
from serving.enrich import Enricher
from serving.model import Model
from serving.records import Decision
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from serving.schemas import SCHEMAS
from serving.scoring import Scorer, ScoringInput

__all__ = ["decide", "run"]

_TAKES = 5
_BATCH = 50
_EXPLAINED = 200
_SEED = 7

State = NDArray[np.int64]


def run(model: Model, enricher: Enricher, *, events: int, start_ms: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each part over generated traffic that begins at ``start_ms``; microseconds everywhere."""
    say(f"{events:,} generated transactions over all entities")
    transactions = Traffic(_SEED, start_ms).payments(events)
    for tx in transactions:
        enricher.enrich(tx)
    say("kernel")
    kernel_us, vectors, states = _kernel(transactions)
    say("states, Avro, inference")
    decisions = _score(model, transactions, vectors)
    return {
        "kernel_us_per_event": kernel_us,
        "features": CATALOGUE.size,
        "entities_per_event": round(sum(len(entities_of(tx)) for tx in transactions) / len(transactions), 2),
        "state": _states(states),
        "avro": _avro(transactions, decisions),
        "inference": _inference(model, transactions, vectors),
        "events": len(transactions),
        "batch": _BATCH,
        "takes": _TAKES,
        "machine": machine(),
    }


def _least_us(times: int, work: Callable[[], object], takes: int = _TAKES) -> float:
    """CPU microseconds of one of ``times`` equal pieces of work, in the quickest take."""
    least = float("inf")
    for _ in range(takes):
        began = time.thread_time()
        work()
        least = min(least, time.thread_time() - began)
    return round(least / max(times, 1) * 1e6, 2)


def decide(model: Model, transactions: Sequence[Transaction]) -> list[Decision]:
    """What the shipped rules and the model say of transactions in their order, each over everything before it."""
    _, vectors, _ = _kernel(transactions, takes=1)
    return _score(model, transactions, vectors)


def _kernel(transactions: Sequence[Transaction], takes: int = _TAKES) -> tuple[float, NDArray[np.float64], dict[Entity, State]]:
    """Cost of a full vector over every entity of an event, states at hand; the vectors; the states after the last event."""
    evaluator = Evaluator()
    columns = CATALOGUE.slices
    rows = [event_row(tx) for tx in transactions]
    keys = [entities_of(tx) for tx in transactions]
    vectors = np.full((len(rows), CATALOGUE.size), np.nan)
    states: dict[Entity, State] = {}

    def observe_all() -> None:
        states.clear()
        for row, vector, entities in zip(rows, vectors, keys, strict=True):
            evaluator.event(row, vector)
            for entity in entities:
                kind, state = entity[0], states.get(entity)
                states[entity] = evaluator.observe(kind, empty_state() if state is None else state, row, vector[columns[kind]])

    return _least_us(len(rows), observe_all, takes), vectors, states


def _states(states: dict[Entity, State]) -> dict[str, Any]:
    held = [(kind, state) for (kind, _), state in states.items()]
    encoded = [(kind, encode_state(state, kind)) for kind, state in held]
    sizes = {name: [len(data) for kind, data in encoded if kind == number] for number, name in enumerate(KINDS)}
    return {
        "encode_us": _least_us(len(held), lambda: [encode_state(state, kind) for kind, state in held]),
        "decode_us": _least_us(len(held), lambda: [decode_state(data, kind) for kind, data in encoded]),
        "median_bytes": {name: int(np.median(found)) for name, found in sizes.items() if found},
    }


def _score(model: Model, transactions: Sequence[Transaction], vectors: NDArray[np.float64]) -> list[Decision]:
    rules = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    return Scorer("stream", "bench").score(_input(transactions, vectors), rules, model)


def _input(transactions: Sequence[Transaction], vectors: NDArray[np.float64]) -> ScoringInput:
    size = len(transactions)
    nothing: list[list[Any]] = [[]] * size
    return ScoringInput(transactions, vectors, [False] * size, nothing, nothing)


def _avro(transactions: Sequence[Transaction], decisions: Sequence[Decision]) -> dict[str, float]:
    codec = Codec({name: number for number, name in enumerate(SCHEMAS, start=1)})
    bodies = [codec.encode_transaction(tx) for tx in transactions]
    values = [codec.encode_decision(decision) for decision in decisions]
    size = len(transactions)
    return {
        "transaction_encode_us": _least_us(size, lambda: [codec.encode_transaction(tx) for tx in transactions]),
        "transaction_decode_us": _least_us(size, lambda: [codec.decode_transaction(body) for body in bodies]),
        "decision_encode_us": _least_us(
            size, lambda: [codec.encode_decision(decision, body) for decision, body in zip(decisions, bodies, strict=True)]
        ),
        "decision_decode_us": _least_us(size, lambda: [codec.decode_decision(value) for value in values]),
        "decision_bytes": round(sum(map(len, values)) / size),
    }


def _inference(model: Model, transactions: Sequence[Transaction], vectors: NDArray[np.float64]) -> dict[str, Any]:
    starts = range(0, len(vectors), _BATCH)
    batches = [vectors[start : start + _BATCH] for start in starts]
    inputs = [_input(transactions[start : start + _BATCH], vectors[start : start + _BATCH]) for start in starts]
    rules = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    scorer = Scorer("stream", "bench")
    size, explained = len(vectors), vectors[:_EXPLAINED]
    return {
        "scored_by": model.path,
        "model_us_per_row": _least_us(size, lambda: [model.predict(batch) for batch in batches]),
        "model_us_single_row": _least_us(size, lambda: [model.predict_single(vector) for vector in vectors]),
        "rules_and_model_us_per_event": _least_us(size, lambda: [scorer.score(batch, rules, model) for batch in inputs]),
        "contributions_us_per_row": _least_us(len(explained), lambda: model.contributions(explained)),
    }
