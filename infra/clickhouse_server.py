"""The embedded ClickHouse of the local stack: ``python -m infra.clickhouse_server HOME``, started and watched like the other servers."""

from __future__ import annotations

import sys
from pathlib import Path

from analytics.engine import EngineSettings
from analytics.server import serve
from fraud.errors import Unavailable
from infra.house_access import accounts
from infra.layout import Layout
from infra.plan import load_plan

__all__ = ["main"]


def main(home: str) -> None:
    """Serve the engine of the stack in ``home`` until told to stop."""
    plan = load_plan(Layout(Path(home)))
    if plan is None:
        raise Unavailable("stack", "it has no plan; start it with ./fraudguard up")
    engine = EngineSettings(plan.layout.clickhouse, max_server_memory_bytes=plan.settings.clickhouse_max_memory_mb << 20)
    serve(engine, accounts(plan.layout), port=plan.settings.clickhouse_port)


if __name__ == "__main__":
    main(sys.argv[1])
