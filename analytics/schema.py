"""ClickHouse's schema: numbered SQL files, each applied once and never changed afterwards.

A file is ``migrations/NNNN_name.sql``; its SHA-256 is kept with its number, and a file that changed after it was applied is an error.
DDL of ClickHouse is not transactional: a migration that broke off is not recorded and runs again, so every statement is made to be
harmless the second time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from fraud.catalogue import CATALOGUE

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

__all__ = ["DATABASE", "Migration", "SchemaChanged", "is_current", "load_migrations", "migrate"]

DATABASE = "fraud"
_FOLDER = Path(__file__).resolve().parent / "migrations"
_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_CREATE = re.compile(r"^CREATE (TABLE|VIEW|MATERIALIZED VIEW) (?!IF NOT EXISTS)", re.MULTILINE)

_APPLIED = """
CREATE TABLE IF NOT EXISTS schema_migrations
(number UInt32, name String, sha256 FixedString(64), applied_at DateTime DEFAULT now())
ENGINE = ReplacingMergeTree ORDER BY number
"""


class SchemaChanged(Exception):
    """The database was made by other files than these."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the file as it is."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """Its statements, in order, each harmless where it has been run before."""
        uncommented = re.sub(r"^--.*$", "", self.text, flags=re.MULTILINE)
        found = (part.strip() for part in re.split(r";\s*(?:\n|$)", uncommented))
        return [_CREATE.sub(r"CREATE \1 IF NOT EXISTS ", part) for part in found if part]


def load_migrations(folder: Path = _FOLDER) -> list[Migration]:
    """The files in order; raises SchemaChanged unless their numbers are 1, 2, 3 and so on."""
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise SchemaChanged(f"{path.name} is not called NNNN_name.sql")
        migrations.append(Migration(int(named.group(1)), named.group(2), path.read_text(encoding="utf-8")))
    numbers = [one.number for one in migrations]
    if numbers != list(range(1, len(numbers) + 1)):
        raise SchemaChanged(f"the migrations are numbered {numbers}")
    return migrations


def migrate(client: Client, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing, and describe today's features; returns the names of what was applied.

    ``client`` belongs to an account that may create tables, and its database is :data:`DATABASE`.

    Raises:
        SchemaChanged: an applied file is not the one that is here, or the database knows later ones.
    """
    wanted = load_migrations() if migrations is None else migrations
    client.command(_APPLIED)
    applied = _applied(client)
    _check(wanted, applied)
    new = [migration for migration in wanted if migration.number not in applied]
    for migration in new:
        for statement in migration.statements:
            client.command(statement)
        client.insert(
            "schema_migrations", [[migration.number, migration.name, migration.sha256]], column_names=["number", "name", "sha256"]
        )
    _describe_features(client)
    return [f"{migration.number:04d}_{migration.name}" for migration in new]


def is_current(client: Client) -> bool:
    """Whether every migration of this program is applied; false, too, where there is no database yet."""
    tables = client.query(
        "SELECT count() FROM system.tables WHERE database = {database:String} AND name = 'schema_migrations'",
        parameters={"database": DATABASE},
    )
    return bool(tables.result_rows[0][0]) and {one.number for one in load_migrations()} <= _applied(client).keys()


def _applied(client: Client) -> dict[int, str]:
    rows = client.query("SELECT number, toString(sha256) FROM schema_migrations FINAL").result_rows
    return {int(number): str(digest) for number, digest in rows}


def _check(wanted: Sequence[Migration], applied: dict[int, str]) -> None:
    known = {migration.number: migration for migration in wanted}
    for number, digest in sorted(applied.items()):
        if number not in known:
            raise SchemaChanged(f"the database has migration {number}, which this program does not know; it is newer")
        if known[number].sha256 != digest:
            raise SchemaChanged(f"migration {number} ({known[number].name}) was changed after it was applied; add a new one instead")


def _describe_features(client: Client) -> None:
    """Names of the positions of ``decisions.features`` by catalogue, and a view with today's as columns."""
    version = CATALOGUE.version
    client.insert(
        "feature_names",
        [[version, position, name] for position, name in enumerate(CATALOGUE.names, start=1)],
        column_names=["catalogue_version", "position", "name"],
    )
    columns = ",\n    ".join(f"features[{position}] AS {name}" for position, name in enumerate(CATALOGUE.names, start=1))
    client.command(
        f"CREATE OR REPLACE VIEW v_features AS SELECT tenant_id, decision_id, event_time, outcome, score,\n    {columns}\n"
        f"FROM decisions FINAL WHERE catalogue_version = '{version}'"
    )
