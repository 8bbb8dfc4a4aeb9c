"""Patterns over many events: what one decision cannot see, found in a window of a tenant's events.

Four families (``frequency``, ``geographic``, ``temporal``, ``coordinated``), each a pure function of the window's columns.  No
I/O, no clock, no state: whatever the order of the events, the findings are the same.

Every test states how improbable what it saw would be in honest traffic *of this window*, and reports only what a fixed budget of
false alarms allows (see :class:`Limits`): an analyst reads each finding.
"""

from __future__ import annotations

from fraud.patterns.detect import detect
from fraud.patterns.findings import Finding, Limits
from fraud.patterns.window import NO_ENTITY, Entities, WindowEvents

__all__ = ["NO_ENTITY", "Entities", "Finding", "Limits", "WindowEvents", "detect"]
