"""LightGBM's library through its C interface, for what its Python package does slowly: few rows at a time.

``Booster.predict`` spends ten times as long around a single row as in it.  The results are those of ``Booster.predict`` to the
last bit.  The package itself is not imported: it brings all of scikit-learn, 1.4 s of a core in every process that is started to
take over from a dead one.  Nothing here knows where a model comes from or what its scores mean.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraud.errors import Unavailable

__all__ = ["LibraryBooster", "UnreadableModel"]

_RAW, _CONTRIB = ctypes.c_int(1), ctypes.c_int(3)
_FLOAT64, _ROW_MAJOR = ctypes.c_int(1), ctypes.c_int(1)
_FIRST, _ALL = ctypes.c_int(0), ctypes.c_int(-1)
# Threads cost more than they bring at these sizes: a single row takes a hundred times as long with the default.
_ONE_THREAD = ctypes.c_char_p(b"num_threads=1")
# Below this many rows the fast path row by row beats one call for the matrix, which sets up a predictor first.
_MATRIX_FROM_ROWS = 8


def _load_library() -> ctypes.CDLL:
    """The library inside the package; where the package is imported as well, the two share it."""
    spec = find_spec("lightgbm")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path("lightgbm")
    found = next((path for part in ("lib", "bin") for path in sorted((folder / part).glob("lib_lightgbm.*"))), None)
    if found is None:
        raise ImportError(f"there is no LightGBM library in {folder}")
    return ctypes.CDLL(str(found))


_LIB = _load_library()
# Item access makes function objects of our own: the package's are left with the signature it gave them.
_load_model = _LIB["LGBM_BoosterLoadModelFromString"]
_free_model = _LIB["LGBM_BoosterFree"]
_count_features = _LIB["LGBM_BoosterGetNumFeature"]
_count_outputs = _LIB["LGBM_BoosterNumModelPerIteration"]
_read_feature_names = _LIB["LGBM_BoosterGetFeatureNames"]
_predict_row = _LIB["LGBM_BoosterPredictForMatSingleRowFast"]
_predict_matrix = _LIB["LGBM_BoosterPredictForMat"]
_new_row_config = _LIB["LGBM_BoosterPredictForMatSingleRowFastInit"]
_free_row_config = _LIB["LGBM_FastConfigFree"]
_last_error = _LIB["LGBM_GetLastError"]
_last_error.restype = ctypes.c_char_p


class UnreadableModel(ValueError):
    """A text that LightGBM does not take for a model."""


class _Model:
    """A model's memory in the library, given back with the last who uses it."""

    def __init__(self, text: str) -> None:
        self.handle = ctypes.c_void_p()
        if _load_model(ctypes.c_char_p(text.encode()), ctypes.byref(ctypes.c_int()), ctypes.byref(self.handle)):
            raise UnreadableModel(_describe_error())
        weakref.finalize(self, _free_model, self.handle)

    def count(self, what: ctypes._NamedFuncPointer) -> int:
        number = ctypes.c_int()
        _check(what(self.handle, ctypes.byref(number)))
        return number.value

    def feature_names(self) -> tuple[str, ...]:
        count = self.count(_count_features)
        found, longest = ctypes.c_int(), ctypes.c_size_t()
        size = 256  # never 0: the library ends each name in its last byte
        while True:
            buffers = [ctypes.create_string_buffer(size) for _ in range(count)]
            names = (ctypes.c_char_p * count)(*(ctypes.cast(buffer, ctypes.c_char_p) for buffer in buffers))
            given = ctypes.c_size_t(size)
            _check(_read_feature_names(self.handle, count, ctypes.byref(found), given, ctypes.byref(longest), names))
            if longest.value <= size:
                return tuple(buffer.value.decode() for buffer in buffers)
            size = longest.value


class LibraryBooster:
    """A model in the library; may be shared between threads, since what the interface writes to belongs to one thread each.

    Args:
        text: of the model.

    Attributes:
        feature_names: in the order of the columns.
        outputs: scores per row; 1 for a binary classifier.

    Raises:
        UnreadableModel: LightGBM cannot read the text.
    """

    def __init__(self, text: str) -> None:
        self._model = _Model(text)
        self.feature_names: tuple[str, ...] = self._model.feature_names()
        self.outputs: int = self._model.count(_count_outputs)
        self._lanes = threading.local()

    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the raw scores, ``float64[B]``, of the model's features, ``float64[B, C]``."""
        if rows.shape[0] >= _MATRIX_FROM_ROWS:
            return self._matrix(rows, _RAW, 1)[:, 0]
        return np.array([self.predict_row(row) for row in rows], dtype=np.float64)

    def predict_row(self, row: NDArray[np.float64]) -> float:
        """Return the raw score of one row, ``float64[C]``."""
        try:
            lane: _RowLane = self._lanes.lane
        except AttributeError:
            lane = self._lanes.lane = _RowLane(self._model, len(self.feature_names))
        lane.row[:] = row
        return lane.predict()

    def contributions(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return exact tree SHAP values, ``float64[B, C + 1]``, the base value last; a row sums to its raw score."""
        return self._matrix(rows, _CONTRIB, len(self.feature_names) + 1)

    def _matrix(self, rows: NDArray[np.float64], kind: ctypes.c_int, width: int) -> NDArray[np.float64]:
        if rows.ndim != 2 or rows.shape[1] != len(self.feature_names):
            raise ValueError(f"rows of shape {rows.shape} do not have the model's {len(self.feature_names)} features")
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        out = np.empty((rows.shape[0], width))
        if not rows.shape[0]:
            return out
        _check(
            _predict_matrix(
                self._model.handle,
                ctypes.c_void_p(rows.ctypes.data),
                _FLOAT64,
                ctypes.c_int32(rows.shape[0]),
                ctypes.c_int32(rows.shape[1]),
                _ROW_MAJOR,
                kind,
                _FIRST,
                _ALL,
                _ONE_THREAD,
                ctypes.byref(ctypes.c_int64()),
                ctypes.c_void_p(out.ctypes.data),
            )
        )
        return out


class _RowLane:
    """What one thread needs for single rows: an input row, an output cell, and the library's prepared configuration."""

    __slots__ = ("__weakref__", "_arguments", "_model", "_raw", "row")

    def __init__(self, model: _Model, columns: int) -> None:
        self._model = model  # the configuration points into it
        self.row = np.zeros(columns)
        self._raw = ctypes.c_double()
        config = ctypes.c_void_p()
        count = ctypes.c_int32(columns)
        _check(_new_row_config(model.handle, _RAW, _FIRST, _ALL, _FLOAT64, count, _ONE_THREAD, ctypes.byref(config)))
        weakref.finalize(self, _free_row_config, config)
        row = ctypes.c_void_p(self.row.ctypes.data)
        self._arguments = (config, row, ctypes.byref(ctypes.c_int64()), ctypes.byref(self._raw))

    def predict(self) -> float:
        """Return the raw score of what lies in ``row``."""
        _check(_predict_row(*self._arguments))
        return self._raw.value


def _check(status: int) -> None:
    """Turn the library's failure into what it is: a model that cannot answer."""
    if status:
        raise Unavailable("model", _describe_error())


def _describe_error() -> str:
    return (_last_error() or b"").decode(errors="replace")
