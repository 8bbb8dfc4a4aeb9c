"""Ends the job for good from inside an operator.

Flink restarts a job whose operator raises, whatever it raises: an exception of Python arrives in the JVM as one of a kind.  Where a
restart cannot help, the task is failed with an exception of Flink's own that says so, which no public method takes.
"""

from __future__ import annotations

from pyflink.datastream import RuntimeContext

__all__ = ["fail_for_good"]


def fail_for_good(runtime_context: RuntimeContext, why: str) -> None:
    """Let the job end as FAILED, with ``why`` as the root cause; the caller raises right after, so that nothing more is put out."""
    from pemja import findClass  # noqa: PLC0415 - exists only inside a TaskManager

    context = runtime_context._runtime_context  # noqa: SLF001
    environment = context.getClass().getDeclaredField("taskEnvironment")
    environment.setAccessible(True)
    cause = findClass("java.lang.IllegalStateException")(why)
    environment.get(context).failExternally(findClass("org.apache.flink.runtime.execution.SuppressRestartsException")(cause))
