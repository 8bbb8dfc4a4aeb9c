"""Enrichment of a history as the stream does it: the raw address replaced by its hash and location."""

from __future__ import annotations

import polars as pl

from fraud.errors import InvalidEvent
from fraud.events import Transaction
from serving.enrich import Enricher
from serving.history import CANONICAL_SCHEMA

__all__ = ["enrich_frame"]

# what the stream keeps of an address
_FIELDS = {name: CANONICAL_SCHEMA[name] for name in ("ip_hash", "ip_country", "ip_region", "ip_asn", "ip_lat", "ip_lon")}


def enrich_frame(frame: pl.DataFrame, enricher: Enricher) -> pl.DataFrame:
    """Replace ``ip_address`` by what the stream keeps of it, each distinct address looked up once.

    Raises:
        InvalidEvent: ``bad_ip``: the stream would have refused such an event.
    """
    addresses = frame["ip_address"].drop_nulls().unique(maintain_order=True)
    if not len(addresses):
        return frame
    table = pl.DataFrame([_looked_up(address, enricher) for address in addresses.to_list()], schema={"ip_address": pl.String, **_FIELDS})
    joined = frame.join(table, on="ip_address", how="left", suffix="_found", maintain_order="left")
    # what is not found stays as the producer sent it
    filled = joined.with_columns(pl.coalesce(f"{name}_found", name).cast(dtype).alias(name) for name, dtype in _FIELDS.items())
    return filled.with_columns(pl.lit(None, dtype=pl.String).alias("ip_address")).select(frame.columns)


def _looked_up(address: str, enricher: Enricher) -> dict[str, object]:
    tx = Transaction("", "", "", "", 0, "USD", 0, ip_address=address)
    try:
        enricher.enrich(tx)
    except InvalidEvent as error:
        raise InvalidEvent(error.code, "an address in the history cannot be read") from error
    return {"ip_address": address} | {name: getattr(tx, name) for name in _FIELDS}
