"""Register the definitions with Feast and open the feature store of one installation.

``apply`` runs Feast's own command in a child process on purpose: importing Feast takes seconds and 140 MB and points
``prometheus_client`` at a temporary folder for the process and all its children, which the caller would hand on to every
server that it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

__all__ = ["apply", "config_path", "connection_string", "open_store", "write_config"]

REPOSITORY = Path(__file__).resolve().parent
_FEAST = "import sys; from feast.cli.cli import cli; sys.argv[0] = 'feast'; cli()"


def connection_string(redis_url: str) -> str:
    """Translate ``redis[s]://[user[:password]@]host[:port][/db]`` into Feast's ``host:port,key=value,…``.

    Raises:
        ValueError: another scheme, or a comma in the credentials, which Feast's format cannot express.
    """
    url = urlsplit(redis_url)
    if url.scheme not in ("redis", "rediss"):
        raise ValueError(f"not a redis:// or rediss:// address: scheme {url.scheme!r}")
    options = {
        "db": url.path.strip("/"),
        # Feast reads each value as JSON first: a quoted one stays text even if it looks like a number
        "username": json.dumps(unquote(url.username)) if url.username else "",
        "password": json.dumps(unquote(url.password)) if url.password else "",
        "ssl": "true" if url.scheme == "rediss" else "",
    }
    if any("," in value for value in options.values()):
        raise ValueError("Feast cannot connect with a comma in the user name or password")
    parts = [f"{url.hostname or 'localhost'}:{url.port or 6379}"]
    return ",".join(parts + [f"{name}={value}" for name, value in options.items() if value])


def config_path(home: Path) -> Path:
    """Where the installation's own ``feature_store.yaml`` stands, for ``feast -f``."""
    return home / "feast" / "feature_store.yaml"


def write_config(home: Path, redis_url: str) -> Path:
    """Write ``feature_store.yaml`` with this installation's registry and Redis filled in; returns its path."""
    config = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text())
    path = config_path(home.resolve())
    config["registry"]["path"] = str(path.with_name("registry.db"))
    config["online_store"]["connection_string"] = connection_string(redis_url)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # it may hold a password
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def apply(home: Path, redis_url: str) -> str:
    """Run ``feast apply`` for the installation under ``home`` and return what Feast printed; running it again changes nothing.

    Redis need not be up unless a view is being removed.

    Raises:
        RuntimeError: Feast refused; the message ends with its output.
    """
    config = write_config(home, redis_url)
    done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-c", _FEAST, "-c", str(REPOSITORY), "-f", str(config), "apply"],
        env={**os.environ, "FRAUDGUARD_HOME": str(home.resolve())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"feast apply failed with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def open_store(home: Path) -> Any:
    """Open the ``feast.FeatureStore`` that :func:`apply` prepared; imports Feast, so not for the hot path."""
    from feast import FeatureStore  # noqa: PLC0415 - see the module's docstring

    return FeatureStore(fs_yaml_file=config_path(home.resolve()))
