"""Puts a registry of metrics on HTTP and announces where, so that Prometheus finds the exporter of every process.

The announcement is a file of Prometheus' own file-based discovery.  It is named after the process, so that a restarted process
takes its predecessor's place; that of a dead one stays, and Prometheus shows the target as down, which is the truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.atomic_write import write_atomically

__all__ = ["Exporter", "ExporterSettings", "announce", "serve"]


class ExporterSettings(BaseSettings):
    """Where the exporter of this process listens, from the environment (prefix ``FRAUDGUARD_METRICS_``).

    Without ``folder`` and without ``port`` there is no exporter: a test or a client that embeds an operator needs none.
    """

    model_config = SettingsConfigDict(env_prefix="FRAUDGUARD_METRICS_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"  # metrics are for this machine unless a deployment says otherwise
    port: int = Field(default=0, ge=0, le=65535)  # 0: any free one; Kubernetes names one
    folder: Path | None = None  # where to announce it
    node: str = "process"  # which of several processes of a kind this is; the label node of all its series

    @property
    def enabled(self) -> bool:
        """Whether anybody asked for an exporter."""
        return self.port != 0 or self.folder is not None


@dataclass(frozen=True)
class Exporter:
    """A running exporter."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/metrics"


def serve(registry: CollectorRegistry, settings: ExporterSettings, *, prefix: str) -> Exporter:
    """Listen on a daemon thread and announce it in ``folder/<prefix>-<component>.json``.

    Raises:
        OSError: the port is taken or the folder cannot be written.
    """
    server, _ = start_http_server(settings.port, settings.host, registry)
    exporter = Exporter(settings.host, server.server_port)
    if settings.folder is not None:
        target = f"{exporter.host}:{exporter.port}"
        announce(settings.folder / f"{prefix}-{settings.node}.json", [target], {"node": settings.node})
    return exporter


def announce(path: Path, targets: list[str], labels: Mapping[str, str]) -> None:
    """Write one file of Prometheus' file-based discovery, in one step: it may be read at any moment."""
    write_atomically(path, json.dumps([{"targets": targets, "labels": dict(labels)}]) + "\n")
