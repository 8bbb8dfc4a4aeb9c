"""Shards spread evenly over key groups, whatever the assignment of keys to groups is."""

from __future__ import annotations

import hashlib

import pytest

from flink_jobs.shards import owned_shards, shard_keys


def _scattered(key: int) -> int:
    return int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:4], "big") % 128


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 7, 16])
def test_each_shard_falls_into_its_own_slice_of_the_key_groups(shards: int) -> None:
    keys = shard_keys(shards, 128, _scattered)
    assert len(set(keys)) == shards
    assert [_scattered(key) * shards // 128 for key in keys] == list(range(shards))


@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_four_shards_are_shared_evenly_by_every_parallelism_that_divides_them(parallelism: int) -> None:
    owners = [_scattered(key) * parallelism // 128 for key in shard_keys(4, 128, _scattered)]
    assert [owners.count(subtask) for subtask in range(parallelism)] == [4 // parallelism] * parallelism


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("parallelism", [1, 2, 3, 5])
def test_each_shard_is_owned_by_the_subtask_that_gets_its_records(shards: int, parallelism: int) -> None:
    keys = shard_keys(shards, 128, _scattered)
    owned = [owned_shards(subtask, parallelism, shards, 128) for subtask in range(parallelism)]
    assert sorted(shard for mine in owned for shard in mine) == list(range(shards))
    assert [[_scattered(keys[shard]) * parallelism // 128 for shard in mine] for mine in owned] == [
        [subtask] * len(mine) for subtask, mine in enumerate(owned)
    ]


@pytest.mark.parametrize("shards", [0, 129])
def test_more_shards_than_key_groups_or_none_are_refused(shards: int) -> None:
    with pytest.raises(ValueError, match="key groups"):
        shard_keys(shards, 128, _scattered)
