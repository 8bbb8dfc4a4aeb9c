"""The codec: what is written can be read, equals what fastavro writes, and nothing but InvalidEvent comes of bad bytes."""

from __future__ import annotations

import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import InvalidEvent
from serving.codec import MAX_VALUE_BYTES, Codec, frame, writer_id
from serving.schemas import SCHEMAS
from tests.wire_samples import (
    SAMPLES,
    SCHEMA_IDS,
    codec,
    decision,
    decode,
    drawn,
    encode,
    plain,
    same,
    transaction,
    written_by_fastavro,
)

names = pytest.mark.parametrize("name", list(SCHEMAS))
HEADER_BYTES = 5


def refusal(name: str, value: bytes | None) -> str:
    """Code with which the value is refused."""
    with pytest.raises(InvalidEvent) as caught:
        decode(name, value)
    return caught.value.code


def body(name: str) -> bytes:
    return encode(name, SAMPLES[name])[HEADER_BYTES:]


@names
def test_a_record_comes_back_as_it_was(name: str) -> None:
    expected = SAMPLES[name]
    assert same(expected, decode(name, encode(name, expected)))


@names
@given(data=st.data())
def test_any_record_that_the_schema_allows_comes_back_and_its_bytes_are_fastavros(name: str, data: st.DataObject) -> None:
    record = data.draw(drawn(name))
    if name == "decision":
        record.transaction.ip_address = record.transaction.decided = None
    framed = encode(name, record)
    assert written_by_fastavro(name, record) == framed[HEADER_BYTES:]
    assert same(record, decode(name, framed))


@names
def test_equal_records_give_equal_bytes(name: str) -> None:
    record = SAMPLES[name]
    copy = decode(name, encode(name, record))
    assert encode(name, record) == encode(name, copy)


@names
def test_a_value_starts_with_zero_and_the_schema_id_in_four_bytes(name: str) -> None:
    value = encode(name, SAMPLES[name])
    assert struct.pack(">bI", 0, SCHEMA_IDS[name]) == value[:HEADER_BYTES]
    assert writer_id(value) == SCHEMA_IDS[name]


def test_a_decision_never_carries_the_raw_address() -> None:
    """Whoever builds the decision and forgets to sanitise it: no byte of the address is written."""
    leaking = decision(transaction=transaction(ip_address="203.0.113.77", decided=b"a decision"))
    value = codec().encode_decision(leaking)
    assert b"203.0.113.77" not in value
    assert codec().decode_decision(value).transaction.ip_address is None
    assert codec().decode_decision(value).transaction.decided is None


def test_the_bits_of_features_survive() -> None:
    bits = np.array([0x7FF8000000000001, 0xFFF8000000000000, 0x8000000000000000, 0x0000000000000001], np.uint64)
    features = bits.view(np.float64)
    decoded = codec().decode_decision(codec().encode_decision(decision(features=features))).features
    assert bits.tolist() == decoded.view(np.uint64).tolist()
    assert not decoded.flags.writeable


@pytest.mark.parametrize("features", [[1.5, 2.5], np.array([[1.5, 9.0], [2.5, 9.0]])[:, 0], np.array([1.5, 2.5], ">f8")])
def test_features_may_be_a_list_a_strided_view_or_of_another_byte_order(features: Any) -> None:
    assert codec().decode_decision(codec().encode_decision(decision(features=features))).features.tolist() == [1.5, 2.5]


def test_a_codec_wants_an_id_for_every_schema() -> None:
    with pytest.raises(ValueError, match="alert"):
        Codec({name: number for name, number in SCHEMA_IDS.items() if name != "alert"})


# Bad bytes


@names
def test_a_value_that_is_not_framed_is_refused_with_its_reason(name: str) -> None:
    assert refusal(name, None) == "null_value"
    assert refusal(name, b"") == "too_short"
    assert refusal(name, b"\0\0\0\1") == "too_short"
    assert refusal(name, b"\1" + encode(name, SAMPLES[name])[1:]) == "bad_magic"
    assert refusal(name, b'{"transaction_id": "t-1"}') == "bad_magic"
    assert refusal(name, frame(999) + body(name)) == "unknown_schema_id"
    assert refusal(name, frame(2**32 - 1) + body(name)) == "unknown_schema_id"


@names
def test_a_record_cut_short_anywhere_is_truncated(name: str) -> None:
    value = encode(name, SAMPLES[name])
    codes = {length: refusal(name, value[:length]) for length in range(HEADER_BYTES, len(value))}
    assert set(codes.values()) == {"truncated"}


@names
def test_bytes_after_the_record_are_refused(name: str) -> None:
    value = encode(name, SAMPLES[name])
    assert refusal(name, value + b"\0") == "trailing_bytes"
    assert refusal(name, value + value) == "trailing_bytes"


def test_a_value_over_the_limit_is_refused_unread() -> None:
    assert refusal("transaction", b"\0" * (MAX_VALUE_BYTES + 1)) == "too_large"
    framed = encode("transaction", SAMPLES["transaction"])
    assert refusal("transaction", framed + bytes(1024 * 1024)) == "too_large"
    exact = Codec(SCHEMA_IDS, max_value_bytes=len(framed))
    assert exact.decode_transaction(framed) == SAMPLES["transaction"]
    with pytest.raises(InvalidEvent, match="too_large"):
        Codec(SCHEMA_IDS, max_value_bytes=len(framed) - 1).decode_transaction(framed)


def minimal(**replaced: bytes) -> bytes:
    """A label of one-letter strings, field by field, with some fields' bytes replaced."""
    parts = {
        "transaction_id": b"\x02t",
        "tenant_id": b"\x02d",
        "card_id": b"\x02c",
        "merchant_id": b"\x02m",
        "transaction_time_ms": b"\x02",
        "label_time_ms": b"\x04",
        "is_fraud": b"\x01",
        "user_id": b"\x00",
        "source": b"\x02s",
    }
    return frame(SCHEMA_IDS["label"]) + b"".join({**parts, **replaced}.values())


def test_the_hand_made_label_is_good() -> None:
    decoded = decode("label", minimal())
    assert (decoded.transaction_id, decoded.transaction_time_ms, decoded.label_time_ms, decoded.is_fraud) == ("t", 1, 2, True)


@pytest.mark.parametrize(
    ("field", "encoded"),
    [
        ("is_fraud", b"\x02"),  # a boolean is 0 or 1
        ("is_fraud", b"\xff"),
        ("user_id", b"\x01x"),  # branch -1, which fastavro takes for the last
        ("user_id", b"\x04"),  # branch 2 of 2
        ("user_id", b"\x03\x00"),
        ("card_id", b"\x01"),  # length -1
        ("card_id", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),  # length -2^63
        ("card_id", b"\x04\xc3\x28"),  # not UTF-8
        ("card_id", b"\x06\xed\xa0\x80"),  # a surrogate in UTF-8's clothes
        ("card_id", b"\x04\xc0\x80"),  # an overlong NUL
        ("label_time_ms", b"\x80" * 10),  # a number without end
        ("label_time_ms", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),  # 70 bits
    ],
)
def test_what_a_lenient_reader_would_let_pass_is_malformed(field: str, encoded: bytes) -> None:
    assert refusal("label", minimal(**{field: encoded})) == "malformed"


@pytest.mark.parametrize("length", [2**20, 2**40, 2**62])
def test_a_length_beyond_the_value_is_truncated_without_allocating_it(length: int) -> None:
    varint = zigzag(length)
    tracemalloc.start()
    try:
        assert refusal("label", minimal(source=varint + b"s")) == "truncated"
        assert refusal("decision", body_with_features(varint + b"\0" * 64)) == "truncated"
        assert refusal("decision", body_with_features(zigzag(-length) + b"\x02" + b"\0" * 64)) == "truncated"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def zigzag(number: int) -> bytes:
    rest, out = (number << 1) ^ (number >> 63), b""
    while rest > 127:
        out += bytes([rest & 127 | 128])
        rest >>= 7
    return out + bytes([rest])


def body_with_features(encoded: bytes) -> bytes:
    """A decision whose array of features is these bytes, and everything after it."""
    marker = np.array([123456.75, 654321.25])
    value = encode("decision", decision(features=marker))
    start = value.index(marker.tobytes())
    return value[: start - 1] + encoded


def test_an_array_may_come_in_several_blocks_with_sizes() -> None:
    """Avro allows writers to cut an array into blocks; ours never does, Java's does."""
    marker = np.array([123456.75, 654321.25])
    value = encode("decision", decision(features=marker))
    start = value.index(marker.tobytes())
    one, two = marker[:1].tobytes(), marker[1:].tobytes()
    blocks = zigzag(-1) + zigzag(8) + one + zigzag(1) + two + b"\0"
    assert marker.tolist() == decode("decision", value[: start - 1] + blocks + value[start + 17 :]).features.tolist()


@names
@given(data=st.data())
def test_random_bytes_are_refused_and_nothing_else_happens(name: str, data: st.DataObject) -> None:
    garbage = data.draw(st.binary(max_size=400))
    survives(name, garbage)
    survives(name, frame(SCHEMA_IDS[name]) + garbage)


@names
@given(data=st.data())
def test_a_damaged_record_is_refused_or_is_another_record(name: str, data: st.DataObject) -> None:
    value = bytearray(encode(name, SAMPLES[name]))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(HEADER_BYTES, len(value) - 1))] = data.draw(st.integers(0, 255))
    survives(name, bytes(value))


@names
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x02, 0x7E, 0x7F, 0x80, 0xFE, 0xFF])
def test_a_large_value_of_one_byte_repeated_is_refused_within_a_second(name: str, byte: int) -> None:
    started = time.perf_counter()
    survives(name, frame(SCHEMA_IDS[name]) + bytes([byte]) * (MAX_VALUE_BYTES - HEADER_BYTES))
    assert time.perf_counter() - started < 1.0


def survives(name: str, value: bytes) -> None:
    """What decodes can be encoded and is the same again; all else is InvalidEvent with a code of this codec."""
    try:
        record = decode(name, value)
    except InvalidEvent as refused:
        assert refused.code in {"too_short", "bad_magic", "unknown_schema_id", "truncated", "malformed", "trailing_bytes"}
        return
    if name == "decision":
        record.transaction.ip_address = record.transaction.decided = None
    assert repr(plain(record)) == repr(plain(decode(name, encode(name, record))))


def test_the_reason_never_repeats_the_payload() -> None:
    secret = "4111111111111111"
    value = encode("transaction", transaction(card_id=secret))
    for damaged in (value[:-1], value + b"x", b"\1" + value, value.replace(b"EUR", b"\xff\xff\xff")):
        with pytest.raises(InvalidEvent) as caught:
            decode("transaction", damaged)
        assert secret not in str(caught.value)
