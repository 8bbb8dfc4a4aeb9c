"""``python -m api.main``: one API process, its settings from the environment."""

from __future__ import annotations

import gc

import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from serving import logs
from serving.exporter import ExporterSettings, announce

__all__ = ["main", "run"]

_KEEP_ALIVE_S = 75  # longer than a load balancer's 60, so that it is never the server who closes a connection in use
_DRAIN_S = 10


def run(settings: ApiSettings) -> None:
    """Serve until told to stop: one worker on one loop, since a second one would share its core."""
    logs.configure("api")
    app = create_app(settings)
    exporter = ExporterSettings()
    if exporter.folder is not None:
        announce(exporter.folder / f"api-{exporter.node}.json", [f"{settings.host}:{settings.port}"], {"node": exporter.node})
    # what is loaded now stays; looking through it for cycles takes tens of milliseconds, which some request would wait for
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,  # the gate and the decisions write what is worth keeping
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        backlog=1_024,
    )


def main() -> None:
    """Run with the settings of the environment."""
    run(ApiSettings())  # type: ignore[call-arg]  # from the environment


if __name__ == "__main__":
    main()
