"""A stack of a test's own: real servers on free ports in a folder of its own, gone afterwards whatever happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.application import enricher_of
from infra.first_model import train_first_model
from infra.scoring_job import models_dir
from infra.settings import StackSettings
from infra.stack import Stack
from serving import model_files
from serving.clock import now_ms


@contextmanager
def private_stack(folder: Path, **settings: Any) -> Iterator[Stack]:
    """The stack while the block runs; ``settings`` are those of ``StackSettings``."""
    stack = Stack(folder, StackSettings.on_free_ports(**settings))
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def put_small_model_into_production(stack: Stack) -> None:
    """In seconds: for tests of what goes on around the model."""
    models = models_dir(stack.layout)
    report = train_first_model(models, enricher_of(stack), say=lambda _text: None, start_ms=now_ms(), rows=8_000)
    model_files.promote(models, report.sha256)
