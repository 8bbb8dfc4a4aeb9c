"""Which rule set and which model are in force for a shard, and which are tried: from control records, parsed or loaded once.

A record that cannot be used is refused and what was in force stays; a challenger that cannot is refused and nothing is tried.  The bytes
that :meth:`ControlledVersions.adopt` returns are what the caller keeps in its state; :meth:`ControlledVersions.of` takes them back after
a restore.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent
from fraud.rules import InvalidRules, RuleSet
from serving.challengers import Challenger, Versions, rules_challenger, share
from serving.codec import Codec
from serving.model import Model, ModelRefused, load_model

__all__ = ["Adopted", "ControlledVersions"]

T = TypeVar("T")

_CHALLENGER = "-challenger"  # beside what is in force, where both are kept


class _Versioned(Generic[T]):
    """Shared behaviour: ``_open`` turns kept bytes into the thing itself and raises one of ``_refusals``."""

    _refusals: tuple[type[Exception], ...] = (InvalidEvent,)

    def __init__(self, default: bytes | None) -> None:
        self._default = default
        self._by_content: dict[bytes, T] = {}
        self._in_force: dict[int, T | None] = {}

    def adopt(self, shard: int, payload: bytes | None) -> bytes | None:
        """Put a control record's content in force for a shard; returns what to keep in state, or None when it is refused."""
        try:
            kept = self._content(payload)
            self._in_force[shard] = self._get(kept)
        except self._refusals:
            return None
        return kept

    def of(self, shard: int, load: Callable[[], bytes | None]) -> T | None:
        """What is in force for a shard: adopted, else restored by ``load``, else the default."""
        if shard not in self._in_force:
            kept = load() or self._default
            self._in_force[shard] = None if kept is None else self._get(kept)
        return self._in_force[shard]

    def _get(self, kept: bytes) -> T:
        found = self._by_content.get(kept)
        if found is None:
            found = self._by_content[kept] = self._open(kept)
        return found

    def _content(self, payload: bytes | None) -> bytes:
        raise NotImplementedError

    def _open(self, kept: bytes) -> T:
        raise NotImplementedError


class _Rules(_Versioned[RuleSet]):
    """Rule sets from records of the ``rules`` topic; what is kept is the canonical JSON."""

    _refusals = (InvalidEvent, InvalidRules)

    def __init__(self, codec: Codec, default_json: str | None) -> None:
        super().__init__(None if default_json is None else default_json.encode())
        self._codec = codec

    def _content(self, payload: bytes | None) -> bytes:
        return self._codec.decode_rule(payload).body.encode()

    def _open(self, kept: bytes) -> RuleSet:
        return RuleSet.from_json(kept, CATALOGUE.index)


class _Models(_Versioned[Model]):
    """Models from records of the ``models`` topic; what is kept is the SHA-256, the file lies under ``models_dir``."""

    _refusals = (InvalidEvent, ModelRefused)

    def __init__(self, codec: Codec, models_dir: Path, default_sha256: str | None) -> None:
        super().__init__(None if default_sha256 is None else default_sha256.encode())
        self._codec = codec
        self._models_dir = models_dir

    def _content(self, payload: bytes | None) -> bytes:
        return self._codec.decode_model(payload).sha256.encode()

    def _open(self, kept: bytes) -> Model:
        return load_model(self._models_dir, kept.decode())


class _Challengers(_Versioned[Challenger[T] | None]):
    """What records try; kept are the share and what names or holds it, or nothing."""

    def adopt_or_withdraw(self, shard: int, payload: bytes | None) -> tuple[bytes, bool]:
        """Try what a record tries, or nothing when that cannot be used; returns what to keep in state, and whether it can."""
        kept = self.adopt(shard, payload)
        if kept is None:
            self._in_force[shard] = None
        return kept or b"", kept is not None

    def _content(self, payload: bytes | None) -> bytes:
        tried, traffic_percentage = self._tried(payload)
        return b"" if tried is None else json.dumps([traffic_percentage, tried]).encode()

    def _open(self, kept: bytes) -> Challenger[T] | None:
        if not kept:
            return None
        traffic_percentage, tried = json.loads(kept)
        return self._challenger(tried, traffic_percentage)

    def _tried(self, payload: bytes | None) -> tuple[str | None, float]:
        raise NotImplementedError

    def _challenger(self, tried: str, traffic_percentage: float) -> Challenger[T]:
        raise NotImplementedError


class _RuleChallengers(_Challengers[RuleSet]):
    """Rule sets that records of the ``rules`` topic try beside their own."""

    _refusals = (InvalidEvent, InvalidRules)

    def __init__(self, codec: Codec) -> None:
        super().__init__(None)
        self._codec = codec

    def _tried(self, payload: bytes | None) -> tuple[str | None, float]:
        record = self._codec.decode_rule(payload)
        return record.challenger_body, record.traffic_percentage

    def _challenger(self, tried: str, traffic_percentage: float) -> Challenger[RuleSet]:
        return rules_challenger(tried, traffic_percentage)


class _ModelChallengers(_Challengers[Model]):
    """Models that records of the ``models`` topic try beside their own; the files lie under ``models_dir``."""

    _refusals = (InvalidEvent, ModelRefused)

    def __init__(self, codec: Codec, models_dir: Path) -> None:
        super().__init__(None)
        self._codec = codec
        self._models_dir = models_dir

    def _tried(self, payload: bytes | None) -> tuple[str | None, float]:
        record = self._codec.decode_model(payload)
        return record.challenger_sha256, record.traffic_percentage

    def _challenger(self, tried: str, traffic_percentage: float) -> Challenger[Model]:
        return Challenger(tried, load_model(self._models_dir, tried), share(traffic_percentage))


class Adopted(NamedTuple):
    """What came of a control record.

    Attributes:
        kept: what to keep in state, by name; empty when nothing has changed.
        is_refused: the record, or what it tries, cannot be used.
    """

    kept: dict[str, bytes]
    is_refused: bool


class ControlledVersions:
    """Both sides, by shard.

    Args:
        codec: decodes control records.
        models_dir: where models lie, by their SHA-256.
        default_rules: canonical JSON, in force until a record says otherwise; None for none.
        default_model: the same, a SHA-256.
    """

    def __init__(self, codec: Codec, models_dir: Path, default_rules: str | None, default_model: str | None) -> None:
        self._rules, self._rule_challengers = _Rules(codec, default_rules), _RuleChallengers(codec)
        self._models, self._model_challengers = _Models(codec, models_dir, default_model), _ModelChallengers(codec, models_dir)

    def adopt(self, shard: int, topic: str, payload: bytes | None) -> Adopted:
        """Put a record of the topic ``rules`` or ``models`` in force for a shard, and try what it tries."""
        kept = (self._rules if topic == "rules" else self._models).adopt(shard, payload)
        if kept is None:
            return Adopted({}, is_refused=True)
        challengers = self._rule_challengers if topic == "rules" else self._model_challengers
        tried, is_usable = challengers.adopt_or_withdraw(shard, payload)
        return Adopted({topic: kept, topic + _CHALLENGER: tried}, is_refused=not is_usable)

    def of(self, shard: int, load: Callable[[str], bytes | None]) -> Versions:
        """What is in force for a shard: adopted, else restored by ``load`` from what was kept by a name, else the default."""
        return Versions(
            self._rules.of(shard, lambda: load("rules")),
            self._models.of(shard, lambda: load("models")),
            self._rule_challengers.of(shard, lambda: load("rules" + _CHALLENGER)),
            self._model_challengers.of(shard, lambda: load("models" + _CHALLENGER)),
        )
