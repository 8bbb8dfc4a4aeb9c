"""The three kinds of error of this system; anything else is a bug and may crash the task.

``InvalidEvent`` goes to the dead-letter topic and is never retried, ``Unavailable`` is retried, degraded or pushed back,
``Denied`` answers the caller.  Mapping to HTTP or to a topic happens at the edges, not here.
"""

from __future__ import annotations

__all__ = ["Denied", "InvalidEvent", "Unavailable"]


class InvalidEvent(Exception):
    """An input that can never be scored: ``code`` is a stable machine-readable reason, ``detail`` is for people.

    ``detail`` never contains the payload.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Unavailable(Exception):
    """A dependency that cannot answer now: ``dependency`` names it."""

    def __init__(self, dependency: str, detail: str = "") -> None:
        super().__init__(f"{dependency}: {detail}" if detail else dependency)
        self.dependency = dependency
        self.detail = detail


class Denied(Exception):
    """A caller that may not do what it asks."""
