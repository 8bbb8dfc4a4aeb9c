"""Log lines: JSON with the fixed fields, never a payload or a card number, never more than the limit."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from serving.logs import DecisionLog, Limit, configure
from serving.records import Decision
from tests import wire_samples

PAN = "4111 1111 1111 1111"  # the test number of a card scheme; it passes Luhn's check
NOT_A_PAN = "4111111111111112"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Where the configured logs go; configuration is undone afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()
    configure("stream", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers, root.level = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def decision(outcome: str = "DENY", trace_id: str | None = "4bf92f3577b34da6a3ce929d0e0e4736") -> Decision:
    """With a card's number and an address that must not reach a line."""
    secret = wire_samples.transaction(card_id=PAN, ip_address="203.0.113.9")
    return wire_samples.decision(outcome=outcome, score=0.91, transaction=secret, trace_id=trace_id)


def test_a_decision_line_has_the_required_fields_and_the_trace_of_the_decision(out: io.StringIO) -> None:
    DecisionLog().decisions([decision()], latency_ms=12.5)
    (line,) = lines(out)
    assert {"timestamp", "level", "service", "trace_id", "decision_id", "latency_ms", "decision", "score"} <= set(line)
    assert (line["service"], line["level"], line["trace_id"]) == ("stream", "info", "4bf92f3577b34da6a3ce929d0e0e4736")
    assert (line["decision"], line["score"], line["latency_ms"]) == ("DENY", 0.91, 12.5)


def test_what_is_allowed_is_not_worth_a_line(out: io.StringIO) -> None:
    DecisionLog().decisions([decision("ALLOW")])
    assert lines(out) == []


def test_no_line_of_the_stream_carries_the_card_or_the_address(out: io.StringIO) -> None:
    log = DecisionLog()
    log.decisions([decision("CHALLENGE")])
    log.dead_letter("transactions", 3, 17, "bad_amount")
    assert "4111" not in out.getvalue()
    assert "203.0.113.9" not in out.getvalue()
    assert lines(out)[1]["code"] == "bad_amount"


@pytest.mark.parametrize(
    "fields",
    [
        {"detail": f"card {PAN} refused"},
        {"detail": PAN.replace(" ", "")},
        {"detail": PAN.replace(" ", "-")},
        {"number": int(PAN.replace(" ", ""))},
        {"nested": {"deep": [PAN]}},
        {"payload": "anything"},
        {"nested": {"card_number": "anything"}},
        {"blob": b"anything"},
        {"odd": io.BytesIO(b"anything")},
    ],
)
def test_card_numbers_payloads_and_bytes_never_reach_a_line(out: io.StringIO, fields: dict[str, Any]) -> None:
    structlog.get_logger().info("something", **fields)
    text = out.getvalue()
    assert "1111" not in text
    assert "anything" not in text
    assert len(lines(out)) == 1


def test_other_numbers_stay_readable(out: io.StringIO) -> None:
    """The control: what is removed above is removed for what it is, not because every number is."""
    structlog.get_logger().info("something", detail=f"offset {NOT_A_PAN}", event_time_ms=4111111111111111)
    assert lines(out)[0]["detail"] == f"offset {NOT_A_PAN}"
    assert lines(out)[0]["event_time_ms"] == 4111111111111111


def test_the_digits_of_a_decision_id_are_no_card_number(out: io.StringIO) -> None:
    """Its control is the same text in another field, and another text in this one."""
    id_ = "dec-abcd4111-1111-1111-1111-abcdef012345"
    structlog.get_logger().info("something", decision_id=id_, detail=id_)
    structlog.get_logger().info("something", decision_id=f"dec-{PAN}")
    first, second = lines(out)
    assert (first["decision_id"], first["detail"]) == (id_, "dec-abcd[removed]-abcdef012345")
    assert second["decision_id"] == "dec-[removed]"


def test_card_numbers_in_exceptions_and_in_logs_of_libraries_are_removed_too(out: io.StringIO) -> None:
    try:
        int(PAN)
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("some.library").warning("sent %s", PAN)
    first, second = lines(out)
    assert "1111" not in out.getvalue()
    assert "ValueError" in first["exception"]
    assert (second["service"], second["level"], second["trace_id"]) == ("stream", "warning", None)


def test_line_breaks_cannot_forge_a_line(out: io.StringIO) -> None:
    structlog.get_logger().info("something", detail='x\r\n{"level": "critical"}\x1b[31m')
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()


def test_a_second_has_no_more_lines_than_its_limit_and_the_next_line_tells_how_many_are_missing(out: io.StringIO) -> None:
    now = [100.0]
    log = DecisionLog(Limit(3, clock=lambda: now[0]))
    log.decisions([decision()] * 50)
    assert len(lines(out)) == 3
    now[0] = 101.0
    log.dead_letter("transactions", 0, 1, "truncated")
    assert lines(out)[-1]["suppressed"] == 47


def test_bound_context_reaches_every_line(out: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(trace_id="abc", tenant_id="t"):
        structlog.get_logger().info("something")
    assert (lines(out)[0]["trace_id"], lines(out)[0]["tenant_id"]) == ("abc", "t")


def test_a_closed_standard_error_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that cannot be written is lost; with standard error back, lines are written again."""
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        configure("stream")
        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr("sys.stderr", closed)
        structlog.get_logger().warning("lost")
        later = io.StringIO()
        monkeypatch.setattr("sys.stderr", later)
        structlog.get_logger().warning("found")
        assert [line["event"] for line in lines(later)] == ["found"]
    finally:
        structlog.reset_defaults()
        root.handlers, root.level = before
