"""Shards: the units in which keyed state is spread over subtasks.

An operator of the scoring job handles a batch per call, so its Flink key is not a card but a shard of cards; the cards are the
keys of a map inside the shard's state.  Flink assigns a key to a subtask by the key's hash, which would put small integers
anywhere, so the integer that stands for a shard is chosen such that shards spread evenly over the key groups.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["check_taskmanagers", "owned_shards", "shard_keys"]


def check_taskmanagers(taskmanagers: int, shards: int) -> None:
    """Raise ValueError for a number of TaskManagers of which some would have nothing to do."""
    if not 1 <= taskmanagers <= shards and taskmanagers != 2 * shards:
        one_to = "1" if shards == 1 else f"1 to {shards}"
        raise ValueError(
            f"the job works on {one_to} or {2 * shards} TaskManagers, not {taskmanagers}: its state is divided into {shards} "
            f"shard{'' if shards == 1 else 's'}, and a shard has work for one, or in two steps for two"
        )


def shard_keys(shards: int, max_parallelism: int, key_group_of: Callable[[int], int]) -> list[int]:
    """Choose the integer that stands for each shard.

    Args:
        shards: number of shards; at most ``max_parallelism``.
        max_parallelism: number of key groups.
        key_group_of: Flink's own assignment of an integer key to a key group.

    Returns:
        ``shards`` different integers; that of shard ``i`` falls into the ``i``-th slice of the key groups.
    """
    if not 0 < shards <= max_parallelism:
        raise ValueError(f"{shards} shards need at least as many key groups, not {max_parallelism}")
    keys: list[int] = []
    candidate = 0
    for shard in range(shards):
        wanted = _key_group(shard, shards, max_parallelism)
        while key_group_of(candidate) != wanted:
            candidate += 1
        keys.append(candidate)
        candidate += 1
    return keys


def owned_shards(subtask: int, parallelism: int, shards: int, max_parallelism: int) -> list[int]:
    """The shards whose keys (see :func:`shard_keys`) Flink assigns to a subtask."""
    return [shard for shard in range(shards) if _key_group(shard, shards, max_parallelism) * parallelism // max_parallelism == subtask]


def _key_group(shard: int, shards: int, max_parallelism: int) -> int:
    """The middle of the shard's slice, so that shards also spread evenly over a parallelism that does not divide them."""
    return (shard * max_parallelism // shards + (shard + 1) * max_parallelism // shards) // 2
