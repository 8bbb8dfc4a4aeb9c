"""A stack of a test's own: real servers on free ports in a folder of its own, gone afterwards whatever happened."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from infra.first_model import train_first_model
from infra.scoring_job import models_dir
from infra.settings import StackSettings
from infra.stack import Stack
from serving import model_files
from serving.clock import now_ms
from serving.enrich import Enricher

_ADDRESS_KEY = b"k" * 32  # of no installation: hashes of addresses are counted, and the hashes of any key count alike


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
    """For tests of what goes on around the model: trained once a run, in seconds."""
    folder, sha256 = _small_model()
    shutil.copytree(folder.name, models_dir(stack.layout), dirs_exist_ok=True)
    model_files.promote(models_dir(stack.layout), sha256)


@cache
def _small_model() -> tuple[tempfile.TemporaryDirectory[str], str]:
    """A folder with the model, which goes with the process, and its SHA-256."""
    folder = tempfile.TemporaryDirectory(prefix="fraudguard-model-")
    trained = train_first_model(Path(folder.name), Enricher(_ADDRESS_KEY), say=lambda _text: None, start_ms=now_ms(), rows=8_000)
    return folder, trained.sha256
