"""Settings of the whole suite: property tests draw the same examples every time, so that a red build is red again."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# "search" draws anew on every run: HYPOTHESIS_PROFILE=search pytest tests/contract
settings.register_profile("same", max_examples=60, derandomize=True, deadline=None, database=None)
settings.register_profile("search", max_examples=400, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
