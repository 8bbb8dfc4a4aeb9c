"""W3C trace context: the caller's trace goes on, and what breaks the rules starts a new one."""

from __future__ import annotations

import pytest

from api.tracing import continued

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_callers_trace_goes_on_in_a_span_of_ours() -> None:
    trace = continued(f"00-{TRACE}-{PARENT}-00")
    assert trace.trace_id == TRACE
    assert trace.span_id != PARENT
    assert trace.traceparent == f"00-{TRACE}-{trace.span_id}-00"


def test_a_newer_version_with_more_behind_it_is_read_as_ours() -> None:
    assert continued(f"01-{TRACE}-{PARENT}-01-more").trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "hello",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_anything_else_starts_a_trace_of_its_own(header: str | None) -> None:
    one, other = continued(header), continued(header)
    assert one.trace_id not in (TRACE, "0" * 32, other.trace_id)
    assert continued(one.traceparent).trace_id == one.trace_id
