"""What ``feast apply`` registers: one view per kind of entity over the state that the stream keeps, and ``velocity``.

A view holds enough state to evaluate every window as of a request, not finished numbers: a stored count would stay as it was
while a card is silent, and Feast does not apply ``ttl`` on online reads.  ``velocity`` turns the five states and the request
into the named features of the catalogue through the kernel.  This module must not compute.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    Project,
    PushSource,
    RequestSource,
    ValueType,
)
from feast.types import Bool, Bytes, Float64, Int64, String

_ROOT = Path(__file__).resolve().parent.parent
if str(_ROOT) not in sys.path:
    sys.path.append(str(_ROOT))  # Feast's own command line puts only this folder on the path

from feature_repo.on_demand import REQUEST_FIELDS, VIEW  # noqa: E402
from fraud.catalogue import CATALOGUE  # noqa: E402
from fraud.events import KINDS  # noqa: E402

_HOME = Path(os.environ.get("FRAUDGUARD_HOME") or _ROOT / ".fraudguard")
_HISTORY = _HOME / "data" / "feast"
# Said of retrieving history through Feast, which the backfill does here.
warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
_FEAST_TYPES = {int: Int64, float: Float64, str: String, bool: Bool}


def _history_source(kind: str) -> FileSource:
    """History of states for the offline store; made empty here, since Feast reads its columns when it applies."""
    path = _HISTORY / f"{kind}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            f"{kind}_key": pa.string(),
            f"{kind}_state": pa.binary(),
            f"{kind}_seq": pa.int64(),
            f"{kind}_event_time_ms": pa.int64(),
        }
        schema = pa.schema({**columns, "event_timestamp": pa.timestamp("us", tz="UTC")})
        pq.write_table(schema.empty_table(), path)
    return FileSource(name=f"{kind}_history", path=str(path), timestamp_field="event_timestamp")


def _state_view(kind: str, entity: Entity) -> FeatureView:
    # Feast merges the views of one request by plain feature name, so a bare "state" of five views would be one column.
    return FeatureView(
        name=kind,
        entities=[entity],
        schema=[
            Field(name=f"{kind}_state", dtype=Bytes, description="the kernel's state of the entity (fraud.state)"),
            Field(name=f"{kind}_seq", dtype=Int64, description="transactions and labels applied to it"),
            Field(name=f"{kind}_event_time_ms", dtype=Int64, description="newest event time, ms UTC"),
        ],
        source=PushSource(name=f"{kind}_push", batch_source=_history_source(kind)),
        online=True,
        description=f"state of a {kind}, written by the stream within a second",
    )


def velocity(columns: dict[str, Any]) -> dict[str, Any]:
    """Every catalogue feature as of the request. Feast stores and re-executes this source alone: hence the import inside."""
    from feature_repo.on_demand import evaluate_rows  # noqa: PLC0415

    return evaluate_rows(columns)


project = Project(name="fraudguard", description="entity states and exact features of the card-fraud stream")
entities = {
    kind: Entity(name=kind, join_keys=[f"{kind}_key"], value_type=ValueType.STRING, description="keyed tenant|id") for kind in KINDS
}
card, user, merchant, device, ip = (entities[kind] for kind in KINDS)
card_view, user_view, merchant_view, device_view, ip_view = (_state_view(kind, entities[kind]) for kind in KINDS)
request = RequestSource(name="request", schema=[Field(name=name, dtype=_FEAST_TYPES[kind]) for name, kind in REQUEST_FIELDS.items()])
velocity_view = OnDemandFeatureView(
    name=VIEW,
    sources=[card_view, user_view, merchant_view, device_view, ip_view, request],
    schema=[Field(name=name, dtype=Float64) for name in CATALOGUE.names],
    mode="python",
    udf=velocity,
    udf_string=inspect.getsource(velocity),
    # Feast compares views without their schema: the version in the text is what makes a new catalogue a change
    description=f"every feature of catalogue {CATALOGUE.version} as of the request; NaN is missing",
    tags={entry.name: f"{entry.unit}: {entry.doc}; missing: {entry.missing}" for entry in CATALOGUE.entries},
)
decision_features = FeatureService(name="decision", features=[velocity_view], description="the vector that model and rules see")
