"""A file that is replaced is always whole, whoever writes and whatever fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.atomic_write import write_atomically


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    write_atomically(path, "für")
    assert path.read_bytes() == "für".encode()
    write_atomically(path, b"\x00\n", durable=True)
    assert path.read_bytes() == b"\x00\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_never_sees_a_part_while_many_threads_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 200_000 for letter in b"abcd"]
    write_atomically(path, contents[0])
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(write_atomically, path, content) for content in contents * 25]
        seen = [path.read_bytes()]
        while not all(write.done() for write in writes):
            seen.append(path.read_bytes())
        for write in writes:
            write.result()
    assert set(seen) <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half a character: \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
