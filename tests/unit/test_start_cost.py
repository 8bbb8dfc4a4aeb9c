"""What a process loads before it can take over from a dead one: seconds of recovery."""

from __future__ import annotations

import subprocess
import sys

import pytest

# user seconds on the machine of the README: Feast 3.6, scikit-learn (of LightGBM's package) 1.4
TOO_HEAVY = ("feast", "sklearn", "lightgbm", "pandas")


@pytest.mark.parametrize("module", ["flink_jobs.operators", "flink_jobs.score", "infra.application", "infra.scoring_job"])
def test_operators_and_their_submitter_load_nothing_that_takes_seconds(module: str) -> None:
    """Pandas comes with pyflink's own runtime in a TaskManager, but not through us."""
    code = f"import {module}, sys; print(*sorted(set(sys.modules) & set({TOO_HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []
