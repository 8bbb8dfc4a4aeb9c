"""What a well-formed record may say: the last gate before the kernel, which trusts what passes.

Decoding has settled the types.  Here every value is held to its range, so that no event can overflow a sum, poison a window with
NaN, push the watermark into tomorrow or smuggle a line break into a log.  Codes of :class:`InvalidEvent`: ``empty_key``,
``key_mismatch``, ``empty_id``, ``bad_text``, ``too_long``, ``bad_tenant``, ``bad_amount``, ``unknown_currency``, ``bad_time``,
``future_event``, ``bad_latitude``, ``bad_longitude``, ``bad_kind``, ``bad_country``, ``bad_mcc``, ``bad_card_age``, ``bad_asn``.
The detail names the field and never repeats its value.

Two things are set right in place instead of refused: coordinates of exactly (0, 0) are a missing position, and identifiers
outside ASCII take their NFKC form, so that two spellings of one card are one card.
"""

from __future__ import annotations

import unicodedata
from itertools import product
from string import ascii_uppercase

from fraud.currency import CURRENCIES
from fraud.errors import InvalidEvent
from fraud.events import KINDS, Label, Transaction
from serving.records import Erasure

__all__ = [
    "ERASABLE",
    "MAX_AMOUNT_MINOR",
    "MAX_FUTURE_MS",
    "MAX_TEXT_CHARS",
    "Validator",
    "check_key",
    "validate",
    "validate_erasure",
    "validate_label",
]

# A merchant is no natural person. An address is named by its hash, which is all that is stored of it.
ERASABLE = tuple(kind for kind in KINDS if kind != "merchant")
MAX_TEXT_CHARS = 128
# Ten billion of a currency with two decimals; a window of a million such amounts still fits in 64 bits.
MAX_AMOUNT_MINOR = 10**12
# Clocks of producers differ by seconds; more would push the watermark ahead and make honest events late.
MAX_FUTURE_MS = 60_000
MIN_TIME_MS = 946_684_800_000  # 2000-01-01: before it there are only default values and mistaken units
MAX_CARD_AGE_DAYS = 36_525  # a century

_MAX_ASN = 2**32 - 1
_COUNTRIES = frozenset("".join(pair) for pair in product(ascii_uppercase, repeat=2))
# Control characters and lone surrogates are wrong in any text; in an identifier so is what cannot be seen.
_BAD_IN_TEXT = frozenset({"Cc", "Cs"})
_BAD_IN_IDS = _BAD_IN_TEXT | {"Cf", "Zl", "Zp"}


class Validator:
    """The gate as an object: the limits are settings, the record's key is part of what is judged.

    Args:
        max_future_ms: how far ahead of the clock an event or a label may be.
        key_is_card: whether the key of a record must be the card id, in UTF-8.
    """

    def __init__(self, *, max_future_ms: int = MAX_FUTURE_MS, key_is_card: bool = True) -> None:
        self._max_future_ms = max_future_ms
        self._key_is_card = key_is_card

    def check_transaction(self, tx: Transaction, key: bytes | None, *, now_ms: int) -> bool:
        """Judge a record of the topic ``transactions`` at the time ``now_ms``; see :func:`check_key` and :func:`validate`."""
        if self._key_is_card:
            check_key(key, tx.card_id)
        changed = validate(tx, now_ms=now_ms, max_future_ms=self._max_future_ms)
        if changed and self._key_is_card:
            check_key(key, tx.card_id)
        return changed

    def check_label(self, label: Label, key: bytes | None, *, now_ms: int) -> None:
        """Judge a record of the topic ``labels``; see :func:`check_key` and :func:`validate_label`."""
        validate_label(label, now_ms=now_ms, max_future_ms=self._max_future_ms)
        if self._key_is_card:
            check_key(key, label.card_id)

    def check_erasure(self, erasure: Erasure, key: bytes | None) -> None:
        """Judge a record of the topic ``erasures``; see :func:`check_key` and :func:`validate_erasure`."""
        validate_erasure(erasure)
        check_key(key, erasure.subject_id)


def check_key(key: bytes | None, card_id: str) -> None:
    """Hold the key of a record to its card id in the form that we keep, for an erasure to its subject's id.

    The partition and the shard come from the key, so another spelling would give a card a second log beside its own.

    Raises:
        InvalidEvent: ``empty_key`` or ``key_mismatch``.
    """
    if not key:
        raise InvalidEvent("empty_key", "the record has no key")
    if key != card_id.encode(errors="surrogatepass"):
        raise InvalidEvent("key_mismatch", "the key of the record is not its card_id")


def validate(tx: Transaction, *, now_ms: int, max_future_ms: int = MAX_FUTURE_MS) -> bool:
    """Judge a decoded transaction; ``now_ms`` is the wall clock in milliseconds UTC.

    Returns:
        Whether something was set right in place.

    Raises:
        InvalidEvent: with one of the codes of this module; the first fault found decides.
    """
    changed = _set_ids_right(tx)
    if not 0 <= tx.amount_minor <= MAX_AMOUNT_MINOR:
        raise InvalidEvent("bad_amount", f"amount_minor must be from 0 to {MAX_AMOUNT_MINOR}")
    if tx.currency not in CURRENCIES:
        raise InvalidEvent("unknown_currency", "currency")
    _check_time(tx.event_time_ms, "event_time_ms", now_ms + max_future_ms)
    changed |= _set_positions_right(tx)
    _check_codes(tx)
    _check_texts(tx)
    return changed


def validate_label(label: Label, *, now_ms: int, max_future_ms: int = MAX_FUTURE_MS) -> None:
    """Judge a decoded label; its own time may not be before the transaction's.

    Raises:
        InvalidEvent: as :func:`validate`.
    """
    label.transaction_id = _id(label.transaction_id, "transaction_id")
    label.tenant_id = _tenant(label.tenant_id)
    label.card_id = _id(label.card_id, "card_id")
    label.merchant_id = _id(label.merchant_id, "merchant_id")
    if label.user_id is not None:
        label.user_id = _id(label.user_id, "user_id")
    _check_time(label.transaction_time_ms, "transaction_time_ms", now_ms + max_future_ms)
    _check_time(label.label_time_ms, "label_time_ms", now_ms + max_future_ms)
    if label.label_time_ms < label.transaction_time_ms:
        raise InvalidEvent("bad_time", "label_time_ms is before transaction_time_ms")
    _check_text(label.source, "source")


def validate_erasure(erasure: Erasure) -> None:
    """Judge a request to erase.

    Raises:
        InvalidEvent: ``bad_kind``, or as :func:`validate` for the ids.
    """
    if erasure.kind not in ERASABLE:
        raise InvalidEvent("bad_kind", "kind must be card, user, device or ip")
    erasure.tenant_id = _tenant(erasure.tenant_id)
    erasure.subject_id = _id(erasure.subject_id, "subject_id")


def _set_ids_right(tx: Transaction) -> bool:
    sent = (tx.transaction_id, tx.tenant_id, tx.card_id, tx.merchant_id, tx.user_id, tx.device_id)
    transaction_id, tenant_id, card_id, merchant_id, user_id, device_id = sent
    right = (
        _id(transaction_id, "transaction_id"),
        _tenant(tenant_id),
        _id(card_id, "card_id"),
        _id(merchant_id, "merchant_id"),
        None if user_id is None else _id(user_id, "user_id"),
        None if device_id is None else _id(device_id, "device_id"),
    )
    if right == sent:
        return False
    tx.transaction_id, tx.tenant_id, tx.card_id, tx.merchant_id, tx.user_id, tx.device_id = right
    return True


def _id(value: str, name: str) -> str:
    """Return the identifier, in NFKC form where it is not ASCII."""
    if value.isascii() and value.isprintable() and 0 < len(value) <= MAX_TEXT_CHARS and value[0] != " " and value[-1] != " ":
        return value
    return _unusual_id(value, name)


def _unusual_id(value: str, name: str) -> str:
    _check_text(value, name, _BAD_IN_IDS)
    value = unicodedata.normalize("NFKC", value)
    if not value or value.isspace():
        raise InvalidEvent("empty_id", name)
    if value != value.strip():
        raise InvalidEvent("bad_text", f"{name} begins or ends with a space")
    if len(value) > MAX_TEXT_CHARS:  # some characters have a longer form
        raise InvalidEvent("too_long", name)
    return value


def _tenant(value: str) -> str:
    value = _id(value, "tenant_id")
    if "|" in value:  # it separates tenant and entity in every state key; looked for after NFKC, which can make one
        raise InvalidEvent("bad_tenant", "tenant_id contains a vertical bar")
    return value


def _check_text(value: str, name: str, bad: frozenset[str] = _BAD_IN_TEXT) -> None:
    if len(value) > MAX_TEXT_CHARS:
        raise InvalidEvent("too_long", f"{name} has more than {MAX_TEXT_CHARS} characters")
    if not value.isprintable() and any(unicodedata.category(character) in bad for character in value):
        raise InvalidEvent("bad_text", f"{name} contains a character that no text should")


def _check_texts(tx: Transaction) -> None:
    for value in (
        tx.transaction_type,
        tx.channel,
        tx.merchant_name,
        tx.city,
        tx.card_type,
        tx.batch_id,
        tx.scenario,
        tx.ip_hash,
        tx.ip_region,
        tx.ip_address,
    ):
        if value is not None and (len(value) > MAX_TEXT_CHARS or not value.isprintable()):
            _check_text(value, _name_of(tx, value))


def _name_of(tx: Transaction, value: str) -> str:
    return next(name for name in Transaction.__slots__ if getattr(tx, name) is value)


def _check_time(time_ms: int, name: str, latest_ms: int) -> None:
    if time_ms < MIN_TIME_MS:
        raise InvalidEvent("bad_time", f"{name} is before the year 2000")
    if time_ms > latest_ms:
        raise InvalidEvent("future_event", f"{name} is in the future")


def _set_positions_right(tx: Transaction) -> bool:
    changed = False
    if (tx.lat is not None or tx.lon is not None) and _is_nowhere(tx.lat, tx.lon, ""):
        tx.lat = tx.lon = None
        changed = True
    if (tx.billing_lat is not None or tx.billing_lon is not None) and _is_nowhere(tx.billing_lat, tx.billing_lon, "billing_"):
        tx.billing_lat = tx.billing_lon = None
        changed = True
    if (tx.ip_lat is not None or tx.ip_lon is not None) and _is_nowhere(tx.ip_lat, tx.ip_lon, "ip_"):
        tx.ip_lat = tx.ip_lon = None
        changed = True
    return changed


def _is_nowhere(lat: float | None, lon: float | None, prefix: str) -> bool:
    """Whether a position is (0, 0); written so that NaN is refused."""
    if lat is None or not -90.0 <= lat <= 90.0:
        raise InvalidEvent("bad_latitude", f"{prefix}lat must be from -90 to 90 and come with {prefix}lon")
    if lon is None or not -180.0 <= lon <= 180.0:
        raise InvalidEvent("bad_longitude", f"{prefix}lon must be from -180 to 180 and come with {prefix}lat")
    return lat == 0.0 == lon


def _check_codes(tx: Transaction) -> None:
    for country in (tx.country, tx.card_country, tx.merchant_country, tx.billing_country, tx.ip_country):
        if country is not None and country not in _COUNTRIES:
            raise InvalidEvent("bad_country", f"{_name_of(tx, country)} must be two capital letters")
    if tx.merchant_mcc is not None and not 0 <= tx.merchant_mcc <= 9999:
        raise InvalidEvent("bad_mcc", "merchant_mcc must be from 0 to 9999")
    if tx.card_age_days is not None and not 0 <= tx.card_age_days <= MAX_CARD_AGE_DAYS:
        raise InvalidEvent("bad_card_age", f"card_age_days must be from 0 to {MAX_CARD_AGE_DAYS}")
    if tx.ip_asn is not None and not 0 <= tx.ip_asn <= _MAX_ASN:
        raise InvalidEvent("bad_asn", f"ip_asn must be from 0 to {_MAX_ASN}")
