"""Feast's own feature server over plain, precomputed features: what a feature store gives without a kernel behind it.

``python -m infra.feast_server FOLDER CONNECTION PORT`` lays out a repository of one view a kind of entity with as many numbers as
our catalogue has for it, writes values of chance for :data:`ENTITIES` entities of each, and serves them.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import yaml

from fraud.catalogue import CATALOGUE
from fraud.events import KINDS

__all__ = ["ENTITIES", "PROJECT", "body"]

PROJECT = "fraudguard_bench_peer"  # rows of its own in the Redis that the API reads from
ENTITIES = 2_000
_SERVICE = "windows"
_FEAST = "import sys; from feast.cli.cli import cli; sys.argv[0] = 'feast'; cli()"


def body(number: int) -> bytes:
    """The question of one event: every feature of its five entities."""
    entities = {kind: [f"{kind}-{number * (i + 7) % ENTITIES}"] for i, kind in enumerate(KINDS)}
    return orjson.dumps({"feature_service": _SERVICE, "entities": entities})


def _prepare(folder: Path, connection: str) -> None:
    """Apply the definitions and write the rows."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource  # noqa: PLC0415 - it takes seconds
    from feast.types import Float64  # noqa: PLC0415
    from feast.value_type import ValueType  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "project": PROJECT,
        "provider": "local",
        "registry": {"path": str(folder / "registry.db"), "cache_ttl_seconds": 3_600},
        "online_store": {"type": "redis", "connection_string": connection, "key_ttl_seconds": 3_600},
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    source = folder / "nothing.parquet"
    pd.DataFrame({"event_timestamp": pd.Series(dtype="datetime64[us, UTC]")}).to_parquet(source)
    store, views = FeatureStore(str(folder)), []
    random, now = np.random.default_rng(7), pd.Timestamp.now("UTC")
    frames = {}
    for kind, columns in zip(KINDS, CATALOGUE.slices, strict=True):
        names = list(CATALOGUE.names[columns])
        entity = Entity(name=kind, join_keys=[kind], value_type=ValueType.STRING)
        files = FileSource(path=str(source), timestamp_field="event_timestamp")
        view = FeatureView(
            name=f"{kind}_windows",
            entities=[entity],
            ttl=timedelta(days=1),
            schema=[Field(name=name, dtype=Float64) for name in names],
            source=files,
        )
        store.apply([entity, view])
        views.append(view)
        frame = pd.DataFrame(random.normal(size=(ENTITIES, len(names))), columns=names)
        frames[view.name] = frame.assign(**{kind: [f"{kind}-{i}" for i in range(ENTITIES)], "event_timestamp": now})
    store.apply([FeatureService(name=_SERVICE, features=views)])
    for name, frame in frames.items():
        store.write_to_online_store(name, frame)


def main() -> None:
    """Prepare, then become the server."""
    folder, connection, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    _prepare(folder, connection)
    serve = ["-c", str(folder), "serve", "-h", "127.0.0.1", "-p", port, "--no-access-log", "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-c", _FEAST, *serve])  # noqa: S606 - our own interpreter and arguments


if __name__ == "__main__":
    main()
