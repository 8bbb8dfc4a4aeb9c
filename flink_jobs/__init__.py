"""Flink topologies and their thin operators; the scoring job is composed in ``score``."""

import builtins

# PyFlink's worker process (process mode) puts a method of its own, ``CustomPrint.print``, in the place of the builtin, and numba, which
# finds what it compiles for by module and name, cannot be imported then.  This package is the first of ours that a worker imports.
_original = getattr(getattr(print, "__self__", None), "_print", None)
if _original is not None:
    builtins.print = _original
