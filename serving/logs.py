"""JSON logs, one object a line on standard error, configured once a process.

Every line has ``timestamp``, ``level``, ``service``, ``event`` and ``trace_id`` (null where there is none); ``tenant_id``,
``transaction_id``, ``decision_id``, ``decision``, ``score`` and ``latency_ms`` stand where they apply.  A payload, a secret or
anything that reads like a card number never gets into a line, whoever asks for it.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from serving.card_numbers import is_card_number, without_card_numbers
from serving.records import Decision

__all__ = ["DecisionLog", "Limit", "configure", "redact"]

# What a caller may pass by mistake, whatever it holds.
_NEVER = frozenset(
    {"payload", "value", "body", "record", "key", "pan", "card_number", "card_id", "ip_address", "token", "password", "secret"}
)
_REMOVED = "[removed]"
_DECISION_ID = re.compile(r"dec-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONGEST_TEXT = 8_000  # a traceback fits

LINES_PER_SECOND = 10


def configure(service: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send this process' logs, those of the standard library's ``logging`` included, to ``stream`` as JSON."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _Service(service),
    ]
    target = cast(TextIO, stream or _StandardError())
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=_describe)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(target)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                structlog.processors.JSONRenderer(default=_describe),
            ],
        )
    )
    root = logging.getLogger()
    # plain stream handlers would write each line a second time, as text; those of other kinds are somebody's own business
    root.handlers = [*(handler for handler in root.handlers if type(handler) is not logging.StreamHandler), foreign]
    root.setLevel(max(level, logging.WARNING))  # libraries tell of trouble only


class _StandardError:
    """Standard error as it is when a line is written; a log that cannot be written is no reason for a stream to stop."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: closed
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


class _Service:
    """Names the service, and the trace even where there is none: a search by field finds every line."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields["service"] = self._service
        fields.setdefault("trace_id", None)
        return fields


def redact(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take out of a line what must not be in it: fields that hold payloads or secrets, bytes, and card numbers in any text."""
    for name, value in fields.items():
        if name == "decision_id" and isinstance(value, str) and _DECISION_ID.fullmatch(value):
            continue  # a hash, of which one in some hundred holds digits that pass for a card number
        fields[name] = _REMOVED if name in _NEVER else _clean(value, is_time=name.endswith("_ms"))
    return fields


def _clean(value: Any, *, is_time: bool = False) -> Any:
    if isinstance(value, str):
        return without_card_numbers(value[:_LONGEST_TEXT], _REMOVED)
    if isinstance(value, bytes | bytearray | memoryview):
        return _describe(value)
    if isinstance(value, int) and not is_time and value > 10**12:
        return _REMOVED if is_card_number(str(value)) else value
    if isinstance(value, dict):
        return {key: _REMOVED if key in _NEVER else _clean(item, is_time=str(key).endswith("_ms")) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return value


def _describe(value: Any) -> str:
    """What stands in a line for something that is no JSON: its kind and, for bytes, how many; never its contents."""
    return f"[{len(value)} bytes]" if isinstance(value, bytes | bytearray | memoryview) else f"[{type(value).__name__}]"


class Limit:
    """At most ``per_second`` lines in each second; the others are counted.  One thread, as an operator has."""

    def __init__(self, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._second = -1
        self._used = 0
        self._suppressed = 0

    def take(self) -> int | None:
        """None when the line must not be written; else how many were not since the last one that was."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._used = second, 0
        if self._used >= self._per_second:
            self._suppressed += 1
            return None
        self._used += 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class DecisionLog:
    """What the stream tells of decisions that are not ALLOW and of dead letters, never more than a few lines a second.

    The ledger has all of them; these lines are for the person who follows a trace.  ``service`` is that of :func:`configure`.
    """

    def __init__(self, limit: Limit | None = None) -> None:
        self._limit = limit or Limit()
        self._log = structlog.get_logger()

    def decisions(self, decisions: Iterable[Decision], latency_ms: float | None = None) -> None:
        """A line for each decision that is not ALLOW; ``latency_ms`` is that of the batch."""
        for decision in decisions:
            if decision.outcome == "ALLOW":
                continue
            suppressed = self._limit.take()
            if suppressed is None:
                continue
            self._log.info(
                "decided",
                trace_id=decision.trace_id,
                tenant_id=decision.tenant_id,
                transaction_id=decision.transaction_id,
                decision_id=decision.decision_id,
                decision=decision.outcome,
                score=round(decision.score, 4),
                latency_ms=decision.latency_ms if latency_ms is None else latency_ms,
                degraded=decision.degraded,
                suppressed=suppressed,
            )

    def dead_letter(self, topic: str, partition: int, offset: int, code: str, trace_id: str | None = None) -> None:
        """A line for a refused record: where it lies and why, nothing of what it says."""
        suppressed = self._limit.take()
        if suppressed is not None:
            fields = {"topic": topic, "partition": partition, "offset": offset, "code": code}
            self._log.warning("dead_letter", trace_id=trace_id, suppressed=suppressed, **fields)
