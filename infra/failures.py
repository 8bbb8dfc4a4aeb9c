"""Why a Flink job fails, in a line that a person can read: the root of its newest exceptions, as the JobManager remembers them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from infra.probes import read_json_url

__all__ = ["Failure", "read_failures", "root_of"]

_ANSWER_TIMEOUT_S = 15.0  # a JobManager that deploys a job on a busy machine keeps its callers waiting for seconds
_CAUSE = "Caused by: "
# exceptions that only carry another one from process to process, or from Python to Java
_CARRIER = re.compile(r"^(?:org\.apache\.flink\.util\.SerializedThrowable|pemja\.core\.PythonException|java\.lang\.RuntimeException): ")
_PYTHON = re.compile(r"^<class '(?:\w+\.)*(?P<name>\w+)'>: ")
_LONGEST = 600


@dataclass(frozen=True)
class Failure:
    """One failure of a job: when, in ms of the epoch, and its root cause in a line."""

    at_ms: int
    root: str


def root_of(stacktrace: str) -> str:
    """The innermost cause of a Java stack trace: its exception and message, without what only carried it."""
    lines = [line for line in stacktrace.splitlines() if line.strip()]
    causes = [line.removeprefix(_CAUSE) for line in lines if line.startswith(_CAUSE)]
    root = causes[-1] if causes else next(iter(lines), "")
    while (shorter := _CARRIER.sub("", root)) != root:
        root = shorter
    return _PYTHON.sub(r"\g<name>: ", root)[:_LONGEST]


def read_failures(flink_rest_url: str, job_id: str) -> list[Failure]:
    """The failures of a job, newest first; none when it had none or the JobManager does not tell."""
    try:
        history = read_json_url(f"{flink_rest_url}/jobs/{job_id}/exceptions", _ANSWER_TIMEOUT_S)["exceptionHistory"]["entries"]
        return [Failure(int(entry["timestamp"]), root_of(entry["stacktrace"])) for entry in history]
    except (OSError, ValueError, KeyError):
        return []
