"""What of a snapshot's state a job would not take over: asked of Flink's own plan and metadata, before anybody stops a running job.

Flink refuses to restore a snapshot with state that no operator claims.  By then the old job is gone; here the answer comes first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

__all__ = ["find_orphans", "name_stateful_operators"]

# what SQL calls its operators with state: a number that moves with every change of the plan, and what they are
_NUMBERED = re.compile(r"^\d+_(?P<kind>source|window-aggregate|sink)$")
_TITLE_NUMBER = re.compile(r"\[\d+\]")


def name_stateful_operators(env: StreamExecutionEnvironment) -> None:
    """Give the stateful operators of SQL names of their own, so that a changed query still finds Kafka's offsets and transactions."""
    roots = env._j_stream_execution_environment.getTransformations().toArray()  # noqa: SLF001
    for root in roots:
        for transformation in root.getTransitivePredecessors().toArray():
            numbered = _NUMBERED.match(transformation.getUid() or "")
            if numbered:
                title = _TITLE_NUMBER.sub("", str(transformation.getName())).removeprefix("Source: ")
                transformation.setUid(f"{title}-{numbered['kind']}")


def find_orphans(env: StreamExecutionEnvironment, snapshot: Path) -> list[str]:
    """Describe each operator of a snapshot whose state the job laid out on ``env`` would not take over; none is good.

    Args:
        env: with the job, not executed; it cannot be executed afterwards.
        snapshot: folder with the ``_metadata`` of a checkpoint or savepoint.
    """
    jvm = get_gateway().jvm
    loader = jvm.Thread.currentThread().getContextClassLoader()
    vertices = env._generate_stream_graph(clear_transformations=True).getJobGraph(loader, None).getVerticesAsArray()  # noqa: SLF001
    claimed = {pair.getGeneratedOperatorID().toHexString(): vertex for vertex in vertices for pair in vertex.getOperatorIDs().toArray()}
    stream = jvm.java.io.DataInputStream(jvm.java.io.FileInputStream(str(snapshot / "_metadata")))
    try:
        metadata = jvm.org.apache.flink.runtime.checkpoint.Checkpoints.loadCheckpointMetadata(stream, loader, str(snapshot))
    finally:
        stream.close()
    held = [state for state in metadata.getOperatorStates().toArray() if _holds_anything(state)]
    return [problem for state in held if (problem := _problem(state, claimed.get(state.getOperatorID().toHexString())))]


def _holds_anything(state: Any) -> bool:
    return state.getCoordinatorState() is not None or any(part.hasState() for part in state.getStates().toArray())


def _problem(state: Any, vertex: Any) -> str:
    name = state.getOperatorName().orElse(state.getOperatorID().toHexString())
    if vertex is None:
        return f"no operator takes over the state of {name} (uid {state.getOperatorUid().orElse('unknown')})"
    wanted = vertex.getMaxParallelism()
    if wanted not in (-1, state.getMaxParallelism()):
        return f"{name} has {state.getMaxParallelism()} key groups in the state and {wanted} in the job"
    return ""
