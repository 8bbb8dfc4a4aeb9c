"""W3C trace context: the identity of a request as its caller knows it, carried on through Kafka.

See https://www.w3.org/TR/trace-context/: ``00-<trace id>-<parent id>-<flags>``.  A header that breaks the rules is as good as none.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

__all__ = ["HEADER", "Trace", "continued"]

HEADER = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NONE, _NO_PARENT, _FORBIDDEN_VERSION = "0" * 32, "0" * 16, "ff"


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace, and our own span in it."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def traceparent(self) -> str:
        """What we send on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def continued(header: str | None) -> Trace:
    """Our span in the caller's trace, or in a new one."""
    found = None if header is None else _FORM.fullmatch(header)
    span_id = secrets.token_hex(8)
    if found is None or found[1] == _FORBIDDEN_VERSION or found[2] == _NONE or found[3] == _NO_PARENT or (found[1] == "00" and found[5]):
        return Trace(secrets.token_hex(16), span_id, "01")
    return Trace(found[2], span_id, found[4])
