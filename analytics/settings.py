"""Where ClickHouse answers and as whom: the embedded engine of the stack, or any server of version 25 or later."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["READER", "WRITER", "HouseSettings"]

WRITER, READER = "fraudguard", "analyst"


class HouseSettings(BaseSettings):
    """Settings of a client of ClickHouse, from the environment (prefix ``FRAUDGUARD_CLICKHOUSE_``) or from the stack."""

    model_config = SettingsConfigDict(env_prefix="FRAUDGUARD_CLICKHOUSE_", frozen=True, extra="ignore")

    url: str  # http://host:8123 or https://host:8443
    user: str = WRITER
    password: SecretStr
    reader_user: str = READER
    reader_password: SecretStr
    connect_timeout_s: int = Field(default=5, ge=1)
    answer_timeout_s: int = Field(default=60, ge=1)  # a stopped engine is given up after this, and the batch sent again

    @property
    def writer(self) -> tuple[str, SecretStr]:
        """The account that creates tables and inserts."""
        return self.user, self.password

    @property
    def reader(self) -> tuple[str, SecretStr]:
        """The account of people."""
        return self.reader_user, self.reader_password
