"""Who may ask a stack's ClickHouse, and how it is reached: light enough for every process that only asks."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping

from pydantic import SecretStr

from analytics.accounts import Account, Accounts
from analytics.settings import READER, WRITER, HouseSettings
from fraud.errors import Denied, Unavailable
from infra.layout import Layout, read_json
from infra.plan import Plan
from serving.atomic_write import write_atomically

__all__ = ["accounts", "house_settings"]

_SECRET_BYTES = 24


def house_settings(plan: Plan) -> HouseSettings:
    """How this stack's ClickHouse is reached.

    The embedded engine's passwords are made here; those of a server of your own come from the environment
    (``FRAUDGUARD_CLICKHOUSE_PASSWORD``, ``FRAUDGUARD_CLICKHOUSE_READER_PASSWORD``).

    Raises:
        Unavailable: the stack has no analytics.
        Denied: the passwords of a server are not set.
    """
    url = plan.addresses.clickhouse_url
    if url is None:
        raise Unavailable("clickhouse", "this stack has no analytics: FRAUDGUARD_ANALYTICS is off, or chdb does not run on this machine")
    if plan.embeds_clickhouse:
        made = _passwords(plan.layout)
        return HouseSettings(
            url=url, password=SecretStr(made[WRITER]), reader_password=SecretStr(made[READER]), user=WRITER, reader_user=READER
        )
    try:
        return HouseSettings(url=url)  # type: ignore[call-arg]  # the environment has the rest
    except ValueError as error:
        raise Denied(f"{url} asks for FRAUDGUARD_CLICKHOUSE_PASSWORD and FRAUDGUARD_CLICKHOUSE_READER_PASSWORD: {error}") from None


def accounts(layout: Layout) -> Accounts:
    """The accounts of the embedded engine."""
    made = _passwords(layout)
    return Accounts(Account(WRITER, made[WRITER], reads_only=False), Account(READER, made[READER], reads_only=True))


def _passwords(layout: Layout) -> Mapping[str, str]:
    path = layout.home / "secrets" / "clickhouse.json"
    made = read_json(path)
    if made is None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = {name: secrets.token_urlsafe(_SECRET_BYTES) for name in (WRITER, READER)}
        write_atomically(path, json.dumps(made))
        os.chmod(path, 0o600)  # noqa: PTH101
    return made
