"""``access``: keys and tokens for callers of the API."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from cli.arguments import FINDING, GOOD, add_command, add_group
from cli.output import print_error, print_lines, print_table, report

if TYPE_CHECKING:
    from cli.arguments import Commands
    from infra.api_access import Access

__all__ = ["register"]

_ROLES = ("service", "analyst", "lead", "admin")


def register(commands: Commands) -> None:
    """Add the commands."""
    access = add_group(commands, "access", "callers of the API: keys and development tokens; the reader of ClickHouse")
    key = add_command(access, "key", _key, "make an API key; it is shown once and kept as a hash")
    key.add_argument("--signed", action="store_true", help="its requests must be signed; the signing secret is shown too")
    token = add_command(access, "token", _token, "a bearer token of the development issuer, good for an hour")
    for parser in (key, token):
        parser.add_argument("--tenant", default="default", metavar="ID")
        parser.add_argument("--subject", default="local", metavar="ID", help="the person or program that it stands for")
        parser.add_argument("--role", choices=_ROLES, default="service")
    house = "how a notebook reaches ClickHouse, read only, as lines for a shell"
    add_command(access, "clickhouse", _clickhouse, house, description='eval "$(./fraudguard access clickhouse)", then start Jupyter.')
    add_command(access, "list", _list, "the API keys, without their secrets")
    revoke = add_command(
        access, "revoke", _revoke, "revoke an API key, or with --kid a key that signs tokens; takes effect within a second"
    )
    revoke.add_argument("id")
    revoke.add_argument("--kid", action="store_true", help="ID names a key that signs tokens")


def _access() -> Access:
    from infra.api_access import Access  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415

    return Access(Stack().layout)


def _key(arguments: argparse.Namespace) -> int:
    from api.identity import Role  # noqa: PLC0415
    from api.signing import secret_of  # noqa: PLC0415

    access = _access()
    key, text = access.key_file.create(arguments.tenant, arguments.subject, Role(arguments.role), must_sign=arguments.signed)
    secret = secret_of(access.signing_secret, key.key_id)
    payload = {"key_id": key.key_id, "api_key": text, "signing_secret": secret}
    lines = [text, *([f"signing secret {secret}"] if arguments.signed else [])]
    report(payload, as_json=arguments.json, people=lambda: print_lines(lines))
    return GOOD


def _token(arguments: argparse.Namespace) -> int:
    from api.identity import Role  # noqa: PLC0415

    token = _access().issue_token(arguments.tenant, arguments.subject, Role(arguments.role))
    report({"token": token}, as_json=arguments.json, people=lambda: print_lines([token]))
    return GOOD


def _clickhouse(arguments: argparse.Namespace) -> int:
    from infra.house_access import house_settings  # noqa: PLC0415
    from infra.settings import REPO_ROOT  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    house = house_settings(Stack().plan)
    user, password = house.reader
    variables = {"URL": house.url, "READER_USER": user, "READER_PASSWORD": password.get_secret_value()}
    payload = {f"FRAUDGUARD_CLICKHOUSE_{name}": value for name, value in variables.items()} | {"PYTHONPATH": str(REPO_ROOT)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in payload.items()]
    report(payload, as_json=arguments.json, people=lambda: print_lines(lines))
    return GOOD


def _list(arguments: argparse.Namespace) -> int:
    content = _access().key_file.read()
    keys = [
        {
            "key_id": key.key_id,
            "tenant_id": key.tenant_id,
            "subject": key.subject,
            "role": key.role.value,
            "must_sign": key.must_sign,
            "revoked_ms": key.revoked_ms,
        }
        for key in content.keys.values()
    ]
    payload = {"keys": keys, "revoked_kids": sorted(content.revoked_kids)}
    columns = ("key_id", "tenant_id", "subject", "role", "must_sign", "revoked_ms")
    rows = [tuple(one[name] for name in columns) for one in keys]
    report(payload, as_json=arguments.json, people=lambda: print_table(tuple(name.replace("_", " ") for name in columns), rows))
    return GOOD


def _revoke(arguments: argparse.Namespace) -> int:
    file = _access().key_file
    if arguments.kid:
        file.revoke_kid(arguments.id)
    elif not file.revoke(arguments.id):
        print_error(f"no API key {arguments.id}")
        return FINDING
    report({"revoked": arguments.id}, as_json=arguments.json, people=lambda: print_lines([f"{arguments.id} is revoked"]))
    return GOOD
