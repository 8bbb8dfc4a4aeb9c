"""Parts survive the trip between operators unchanged, and a part of another version is refused."""

from __future__ import annotations

import numpy as np
import pytest

from flink_jobs.packing import Entry, FeaturePart, HomePart, Item, ItemKind, ObservationPart, PartHeader, peek_header
from fraud.kernel import EVENT_WORDS

HEADER = PartHeader(home_shard=3, batch=2**40, index=1, parts=4)


def test_header_tells_type_and_place() -> None:
    assert peek_header(HomePart(HEADER, []).pack()) == (b"H", HEADER)


def test_home_part_keeps_items_of_all_kinds_in_order() -> None:
    features = [np.array([1.5, np.nan]), np.array([-0.0, 7.0])]
    items = [
        Item(ItemKind.TRANSACTION, b"one", 5, late=True, timestamp_ms=9, features=features[0]),
        Item(ItemKind.DEAD_LETTER, b""),
        Item(ItemKind.LABEL, b"label", 6),
        Item(ItemKind.ERASURE, b"erasure", 0),
        Item(ItemKind.TRANSACTION, b"two", 7, features=features[1]),
    ]
    unpacked = HomePart.unpack(HomePart(HEADER, items).pack())
    assert unpacked.header == HEADER
    for item, other in zip(items, unpacked.items, strict=True):
        assert (item.kind, item.body, item.card_seq, item.late, item.timestamp_ms) == (
            other.kind,
            other.body,
            other.card_seq,
            other.late,
            other.timestamp_ms,
        )
        if item.features is None:
            assert other.features is None
        else:
            assert other.features is not None
            assert item.features.tobytes() == other.features.tobytes()


def test_observation_part_keeps_keys_rows_and_entries() -> None:
    rng = np.random.default_rng(1)
    part = ObservationPart(
        HEADER,
        np.array([[0, 1, 0], [2, 4, 1], [2, 2, 0]]),
        np.array([Entry.EVENT, Entry.ERASURE, Entry.LABEL], dtype=np.uint8),
        ["default|ü", "", "a|b"],
        rng.integers(-9, 9, (2, EVENT_WORDS)),
    )
    unpacked = ObservationPart.unpack(part.pack())
    assert unpacked.keys == part.keys
    for name in ("table", "entries", "rows"):
        assert np.array_equal(getattr(unpacked, name), getattr(part, name))
    assert unpacked.rows.flags.writeable


def test_feature_part_keeps_every_bit() -> None:
    part = FeaturePart(HEADER, np.array([[0, 1, 17], [1, 2, 3]]), np.array([3, 0]), np.array([np.nan, -0.0, 5e-324]))
    unpacked = FeaturePart.unpack(part.pack())
    assert unpacked.values.tobytes() == part.values.tobytes()
    assert np.array_equal(unpacked.table, part.table)
    assert np.array_equal(unpacked.widths, part.widths)


def test_a_part_of_another_version_is_refused() -> None:
    payload = bytearray(HomePart(HEADER, []).pack())
    payload[0] += 1
    with pytest.raises(ValueError, match="packing version"):
        peek_header(bytes(payload))
