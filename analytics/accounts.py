"""Who may ask the embedded engine, and how much: the service that writes, and analysts who read within limits.

A ClickHouse server has users, roles and settings profiles of its own (``server_roles.sql``); this is what the engine has instead.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from analytics.statements import ClickHouseError

__all__ = ["Account", "Accounts", "ReaderLimits"]

# How results look and how queries are joined and ordered is the reader's own business; everything else stays as it is.
_READERS_SETTINGS = re.compile(
    r"(output_format_\w+|input_format_\w+|date_time_(input|output)_format|session_timezone|join_use_nulls|final|extremes|limit|offset"
    r"|max_block_size|log_comment|prefer_column_name_to_alias|cast_string_to_dynamic_use_inference|use_query_cache|result_overflow_mode)"
)


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What one query of a reader may take; one that needs more fails with ClickHouse's own error."""

    max_result_rows: int = 1_000_000
    max_execution_time: float = 30.0  # seconds
    max_memory_usage: int = 1_000_000_000  # bytes
    max_threads: int = 2

    def settings(self) -> dict[str, str]:
        """As ClickHouse names them."""
        return {name: f"{getattr(self, name):g}" if name == "max_execution_time" else str(getattr(self, name)) for name in self.__slots__}

    def clamped(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """The caller's settings under these limits; a lower limit of the caller's counts.

        Raises:
            ClickHouseError: a setting that a reader may not change, or a limit that is no number.
        """
        chosen = self.settings()
        for name, value in wanted.items():
            if name in chosen:
                chosen[name] = _lower(name, chosen[name], value)
            elif _READERS_SETTINGS.fullmatch(name):
                chosen[name] = value
            else:
                raise ClickHouseError(164, "READONLY", f"Cannot modify '{name}' setting in readonly mode")
        return chosen


def _lower(name: str, limit: str, wanted: str) -> str:
    try:
        number = float(wanted)
    except ValueError:
        raise ClickHouseError(27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", f"'{wanted}' is no number for {name}") from None
    return wanted if 0 < number < float(limit) else limit


@dataclass(frozen=True, slots=True)
class Account:
    """A name with its password; a reader cannot change anything."""

    name: str
    password: str = field(repr=False)
    reads_only: bool


class Accounts:
    """The accounts of one engine."""

    def __init__(self, *accounts: Account) -> None:
        self._accounts = {account.name: account for account in accounts}

    def authenticate(self, name: str, password: str) -> Account:
        """The account; raises ClickHouseError, the same for an unknown name and for a wrong password."""
        account = self._accounts.get(name)
        expected = account.password if account is not None else ""
        right = hmac.compare_digest(password.encode(), expected.encode())
        if account is None or not right:
            text = f"{name}: Authentication failed: password is incorrect, or there is no user with such name"
            raise ClickHouseError(516, "AUTHENTICATION_FAILED", text)
        return account
