"""What the benches share: the traffic that they offer, the model that judges it, and the machine that a report is of."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fraud.events import Transaction
from generator.generate import demo_traffic
from infra.application import enricher_of
from infra.first_model import ensure_model
from infra.scoring_job import models_dir
from infra.stack import Stack
from serving.enrich import Enricher
from serving.history import to_transactions
from serving.model import Model, load_model

__all__ = ["Traffic", "machine", "model_and_enricher"]

_EVENTS_AGO_MS = 3_600_000  # event times end before now: no run reaches into the future
_EVENTS_PER_S = 2_000.0  # of event time: what a population of 40,000 does in its own seconds


@dataclass(slots=True)
class Traffic:
    """One population's payments, piece after piece later in event time."""

    seed: int
    next_ms: int
    made: int = field(default=0)

    @classmethod
    def before(cls, now_ms: int, seed: int) -> Traffic:
        """Traffic that has an hour of event time before it comes near ``now_ms``."""
        return cls(seed, now_ms - 2 * _EVENTS_AGO_MS)

    def payments(self, count: int) -> list[Transaction]:
        """The next payments, about ``count`` of them."""
        seconds = count / _EVENTS_PER_S
        frame = demo_traffic(seconds, _EVENTS_PER_S, seed=self.seed, start_ms=self.next_ms)
        self.next_ms += round(1_000 * seconds) + 1
        self.made += frame.height
        return to_transactions(frame)


def model_and_enricher(stack: Stack, say: Callable[[str], None]) -> tuple[Model, Enricher]:
    """The model in production, trained where there is none yet, and what enriches its input."""
    folder, enricher = models_dir(stack.layout), enricher_of(stack)
    return load_model(folder, ensure_model(folder, lambda: enricher, say)), enricher


def machine() -> dict[str, Any]:
    """What a reader of a report must know of the machine."""
    return {"cores": os.cpu_count(), "architecture": platform.machine(), "load_average": os.getloadavg()[0]}
