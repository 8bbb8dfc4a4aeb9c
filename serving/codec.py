"""Kafka values to records and back: Avro in Confluent's wire format (byte 0, schema id as 4 big-endian bytes, the record).

What arrives here is untrusted.  Whatever the bytes, decoding gives a record or :class:`InvalidEvent`, in time and memory bounded
by their length; what the record *says* is judged by :mod:`serving.validate`.  Codes: ``null_value``, ``too_large``,
``too_short``, ``bad_magic``, ``unknown_schema_id``, ``wrong_schema``, ``truncated``, ``malformed``, ``trailing_bytes``.

Records written with an older or newer version of a schema are resolved to ours; the text of that version comes from the registry,
which may be :class:`fraud.errors.Unavailable`.  This module opens no socket itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from fraud.errors import InvalidEvent
from fraud.events import Label, Transaction
from serving.avro_compiler import Decoder, Encoder, compile_decoder, compile_encoder, compile_splicer
from serving.avro_foreign import foreign_decoder
from serving.records import (
    Alert,
    Change,
    DeadLetter,
    Decision,
    Erasure,
    ErasureApplied,
    LabelApplied,
    ModelVersion,
    RuleSetVersion,
    ShadowDecision,
)
from serving.schemas import CLASSES, SCHEMAS, canonical_form, load_schema

__all__ = ["HEADER_BYTES", "MAX_VALUE_BYTES", "Codec", "frame", "writer_id"]

# A transaction is about 300 bytes and a decision about 2 KB; what is a hundred times that is not one of them.
MAX_VALUE_BYTES = 256 * 1024

HEADER_BYTES = 5
_MAGIC = 0

# The decision of record never carries the raw address, nor another decision, whoever builds it.
_BLANK: Mapping[str, tuple[str, ...]] = {"decision": ("transaction.ip_address", "transaction.decided")}


def _between(schema: dict[str, Any], first: str, last: str) -> dict[str, Any]:
    """The record of a schema's fields from one to another."""
    names = [f["name"] for f in schema["fields"]]
    return {**schema, "fields": schema["fields"][names.index(first) : names.index(last) + 1]}


_DECODERS: Mapping[str, Decoder] = {name: compile_decoder(load_schema(name), CLASSES) for name in SCHEMAS}
_ENCODERS: Mapping[str, Encoder] = {name: compile_encoder(load_schema(name), _BLANK.get(name, ())) for name in SCHEMAS}
_encode_decision_around = compile_splicer(load_schema("decision"), "transaction")
_decode_own_transaction = _DECODERS["transaction"]
# what enrichment writes stands together in the record, and the rest of it can stay as it came
_ADDRESS_FIELDS = ("ip_address", "ip_lon")
_decode_spanned_transaction = compile_decoder(load_schema("transaction"), CLASSES, _ADDRESS_FIELDS)
_encode_address = compile_encoder(_between(load_schema("transaction"), *_ADDRESS_FIELDS))


def frame(schema_id: int) -> bytes:
    """The five bytes before a record written with the schema of that id."""
    return bytes([_MAGIC]) + schema_id.to_bytes(4, "big")


def writer_id(value: bytes | None, max_value_bytes: int = MAX_VALUE_BYTES) -> int:
    """Schema id of a framed value.

    Raises:
        InvalidEvent: ``null_value``, ``too_large``, ``too_short`` or ``bad_magic``.
    """
    if value is None:
        raise InvalidEvent("null_value", "the record has no value")
    if len(value) > max_value_bytes:
        raise InvalidEvent("too_large", f"{len(value)} bytes, more than {max_value_bytes}")
    if len(value) < HEADER_BYTES:
        raise InvalidEvent("too_short", f"{len(value)} bytes")
    if value[0] != _MAGIC:
        raise InvalidEvent("bad_magic", f"the first byte is {value[0]}, not {_MAGIC}")
    return int.from_bytes(value[1:HEADER_BYTES], "big")


def _no_other_schema(schema_id: int) -> str:
    raise InvalidEvent("unknown_schema_id", str(schema_id))


class Codec:
    """Encodes and decodes every record of ``avro/``; holds no state but the decoders of foreign schema versions.

    Args:
        schema_ids: id of our version of each schema, as ``registry.register_all`` returns it.
        writer_schema: text of a schema by id, as ``registry.schema_by_id``; without it every other id is unknown.
        max_value_bytes: longer values are refused unread.

    Every ``decode_*`` raises :class:`InvalidEvent` for bad bytes, and lets :class:`fraud.errors.Unavailable` of the registry pass.
    Every ``encode_*`` gives equal bytes for equal records.
    """

    def __init__(
        self,
        schema_ids: Mapping[str, int],
        writer_schema: Callable[[int], str] | None = None,
        *,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> None:
        missing = SCHEMAS.keys() - schema_ids.keys()
        if missing:
            raise ValueError(f"no schema id for {', '.join(sorted(missing))}")
        self._ids = dict(schema_ids)
        self._frames = {name: frame(schema_id) for name, schema_id in schema_ids.items()}
        self._transaction_frame = self._frames["transaction"]
        self._writer_schema = writer_schema or _no_other_schema
        self.max_value_bytes = max_value_bytes
        # By schema name and writer's id; bounded by the number of schemas that the registry holds.
        self._foreign: dict[tuple[str, int], Decoder | InvalidEvent] = {}

    def encode_transaction(self, transaction: Transaction) -> bytes:
        """Encode a transaction as it is, a raw address included: sanitise it first (``enrich``) where it is to be stored."""
        return _ENCODERS["transaction"](self._transaction_frame, transaction)

    def decode_transaction(self, value: bytes | None) -> Transaction:
        """Decode a value of the topic ``transactions``."""
        if value is not None and value[:HEADER_BYTES] == self._transaction_frame and len(value) <= self.max_value_bytes:
            return cast(Transaction, _decode_own_transaction(value, HEADER_BYTES))
        return cast(Transaction, self._decode("transaction", value))

    def read_transaction(self, value: bytes | None) -> tuple[Transaction, Callable[[Transaction], bytes]]:
        """Decode a value of the topic ``transactions``; with it comes what encodes it again after enrichment.

        That function takes the same transaction with other fields of its address and with nothing else changed; it copies the rest.
        """
        if value is not None and value[:HEADER_BYTES] == self._transaction_frame and len(value) <= self.max_value_bytes:
            transaction, begin, end = _decode_spanned_transaction(value, HEADER_BYTES)
            return transaction, lambda enriched: b"".join((_encode_address(value[:begin], enriched), value[end:]))
        return cast(Transaction, self._decode("transaction", value)), self.encode_transaction

    def encode_label(self, label: Label) -> bytes:
        """Encode a label."""
        return self._encode("label", label)

    def decode_label(self, value: bytes | None) -> Label:
        """Decode a value of the topic ``labels``."""
        return cast(Label, self._decode("label", value))

    def encode_decision(self, decision: Decision, transaction: bytes | None = None) -> bytes:
        """Encode a decision; the raw address of its transaction is written as null whatever it holds.

        ``transaction`` is what :meth:`encode_transaction` made of the decision's transaction, sanitised; it is then not encoded again.
        """
        if transaction is not None and transaction[:HEADER_BYTES] == self._transaction_frame:
            return _encode_decision_around(self._frames["decision"], decision, transaction[HEADER_BYTES:])
        return self._encode("decision", decision)

    def decode_decision(self, value: bytes | None) -> Decision:
        """Decode a value of the topics ``decisions`` and ``fraud-events``; ``features`` is a read-only float64 array."""
        return cast(Decision, self._decode("decision", value))

    def encode_shadow_decision(self, shadow: ShadowDecision) -> bytes:
        """Encode what a challenger would have decided."""
        return self._encode("shadow_decision", shadow)

    def decode_shadow_decision(self, value: bytes | None) -> ShadowDecision:
        """Decode a value of the topic ``shadow-decisions``."""
        return cast(ShadowDecision, self._decode("shadow_decision", value))

    def encode_alert(self, alert: Alert) -> bytes:
        """Encode an alert."""
        return self._encode("alert", alert)

    def decode_alert(self, value: bytes | None) -> Alert:
        """Decode a value of the topic ``fraud_alerts``."""
        return cast(Alert, self._decode("alert", value))

    def encode_label_applied(self, applied: LabelApplied) -> bytes:
        """Encode the application of a label."""
        return self._encode("label_applied", applied)

    def decode_label_applied(self, value: bytes | None) -> LabelApplied:
        """Decode a value of the topic ``labels-applied``."""
        return cast(LabelApplied, self._decode("label_applied", value))

    def encode_erasure(self, erasure: Erasure) -> bytes:
        """Encode a request to erase."""
        return self._encode("erasure", erasure)

    def decode_erasure(self, value: bytes | None) -> Erasure:
        """Decode a value of the topic ``erasures``."""
        return cast(Erasure, self._decode("erasure", value))

    def encode_erasure_applied(self, applied: ErasureApplied) -> bytes:
        """Encode that an entity was erased."""
        return self._encode("erasure_applied", applied)

    def decode_erasure_applied(self, value: bytes | None) -> ErasureApplied:
        """Decode a value of the topic ``erasures-applied``."""
        return cast(ErasureApplied, self._decode("erasure_applied", value))

    def encode_dead_letter(self, letter: DeadLetter) -> bytes:
        """Encode a dead letter."""
        return self._encode("dead_letter", letter)

    def decode_dead_letter(self, value: bytes | None) -> DeadLetter:
        """Decode a value of the topic ``transactions.dlq``."""
        return cast(DeadLetter, self._decode("dead_letter", value))

    def encode_rule(self, version: RuleSetVersion) -> bytes:
        """Encode a version of the rules."""
        return self._encode("rule", version)

    def decode_rule(self, value: bytes | None) -> RuleSetVersion:
        """Decode a value of the topic ``rules``."""
        return cast(RuleSetVersion, self._decode("rule", value))

    def encode_model(self, version: ModelVersion) -> bytes:
        """Encode the model in force."""
        return self._encode("model", version)

    def decode_model(self, value: bytes | None) -> ModelVersion:
        """Decode a value of the topic ``models``."""
        return cast(ModelVersion, self._decode("model", value))

    def encode_change(self, change: Change) -> bytes:
        """Encode a change of the audit log."""
        return self._encode("change", change)

    def decode_change(self, value: bytes | None) -> Change:
        """Decode a value of the topic ``audit``."""
        return cast(Change, self._decode("change", value))

    def schema_id(self, name: str) -> int:
        """Id of our version of a schema."""
        return self._ids[name]

    def writer_schema(self, name: str, schema_id: int) -> dict[str, Any]:
        """The schema of that id, parsed, as one whose records ``decode_*`` reads as ours.

        Raises:
            InvalidEvent: ``unknown_schema_id``, or ``wrong_schema`` when it does not read them.
        """
        if schema_id == self._ids[name]:
            return load_schema(name)
        self._decoder(name, schema_id)
        schema: dict[str, Any] = json.loads(self._writer_schema(schema_id))
        return schema

    def rewritten(self, name: str, value: bytes | None) -> bytes:
        """What a value of any version says, written with our version of the schema, each array in one block."""
        return self._encode(name, self._decode(name, value))

    def _encode(self, name: str, record: Any) -> bytes:
        return _ENCODERS[name](self._frames[name], record)

    def _decode(self, name: str, value: bytes | None) -> Any:
        schema_id = writer_id(value, self.max_value_bytes)
        assert value is not None  # writer_id has raised
        if schema_id == self._ids[name]:
            return _DECODERS[name](value, HEADER_BYTES)
        return self._decoder(name, schema_id)(value, HEADER_BYTES)

    def _decoder(self, name: str, schema_id: int) -> Decoder:
        """The decoder for what another version has written, kept; a refusal is kept as well."""
        decoder = self._foreign.get((name, schema_id))
        if decoder is None:
            decoder = self._foreign[name, schema_id] = self._foreign_decoder(name, schema_id)
        if isinstance(decoder, InvalidEvent):
            raise InvalidEvent(decoder.code, decoder.detail)
        return decoder

    def _foreign_decoder(self, name: str, schema_id: int) -> Decoder | InvalidEvent:
        text = self._writer_schema(schema_id)
        ours = load_schema(name)
        try:
            writer = json.loads(text)
            if canonical_form(writer) == canonical_form(ours):
                return _DECODERS[name]  # ours under another id: the producer's client has formatted it its own way
            return foreign_decoder(writer, ours, CLASSES)
        except (ValueError, RecursionError):
            return InvalidEvent("wrong_schema", "the registered schema is not JSON that can be read")
        except InvalidEvent as refused:
            return refused
