"""The API of the local stack: ``python -m infra.api_server HOME``, started and watched like the other servers.

Its settings follow from the plan and from the files of the home, so no secret stands in an environment or on a command line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from api.main import run
from fraud.errors import Unavailable
from infra.api_access import api_settings
from infra.layout import Layout
from infra.plan import load_plan

__all__ = ["main"]


def main(home: str) -> None:
    """Serve the API of the stack in ``home`` until told to stop."""
    plan = load_plan(Layout(Path(home)))
    if plan is None:
        raise Unavailable("stack", "it has no plan; start it with ./fraudguard up")
    run(api_settings(plan))


if __name__ == "__main__":
    main(sys.argv[1])
