"""The process that owns the embedded engine: opens its folder, serves the protocol on the loopback interface, closes it again."""

from __future__ import annotations

import signal
from contextlib import closing

import uvicorn

from analytics.accounts import Accounts
from analytics.engine import Engine, EngineSettings
from analytics.protocol import ProtocolSettings, create_app

__all__ = ["serve"]

_GRACE_S = 8  # below the supervisor's patience


def serve(engine: EngineSettings, accounts: Accounts, *, port: int, protocol: ProtocolSettings | None = None) -> None:
    """Serve until SIGTERM; what runs then gets a few seconds to end."""
    # uvicorn stops on the signal and raises it again afterwards: without a handler of ours that would end us before the engine is closed
    signal.signal(signal.SIGTERM, lambda *_: None)
    with closing(Engine(engine)) as opened:
        uvicorn.run(
            create_app(opened, accounts, protocol),
            host="127.0.0.1",
            port=port,
            log_level="warning",
            access_log=False,  # an URL may carry a password
            limit_concurrency=256,
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
        )
