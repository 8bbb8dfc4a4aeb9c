"""What a person may choose about the API, read from the environment (prefix ``FRAUDGUARD_API_``).

The default environment is production, where nothing starts without real secrets; whoever wants development asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["MIN_SECRET_BYTES", "ApiSettings"]

MIN_SECRET_BYTES = 32  # as long as the digests that are made with it


class ApiSettings(BaseSettings):
    """Settings of one API process.  Addresses and secrets have no default."""

    model_config = SettingsConfigDict(env_prefix="FRAUDGUARD_API_", frozen=True, extra="ignore")

    environment: Literal["development", "production"] = "production"
    host: str = "127.0.0.1"  # to be reached from elsewhere is a decision
    port: int = Field(default=8000, ge=0, le=65535)

    # dependencies
    bootstrap_servers: str
    redis_url: SecretStr  # may hold a password
    registry_url: str
    models_dir: Path
    ip_hash_key_file: Path

    # identity: one source of public keys, and the file of API keys
    jwks_url: str | None = None
    jwks_file: Path | None = None
    jwks_refresh_s: float = Field(default=300.0, ge=1)  # issuers announce a new key long before they use it
    issuer: str
    audience: str = "fraudguard"
    tenant_claim: str = "tenant_id"
    role_claim: str = "role"  # a dotted path: Keycloak's is realm_access.roles
    api_keys_file: Path | None = None
    signing_secret: SecretStr  # request-signing secrets of API keys are derived from it
    operator_tenant: str = "default"  # rules are of the whole installation, so only its operator changes them

    # limits
    tenant_requests_per_min: int = Field(default=1_000, ge=1)
    tenant_limits: dict[str, int] = Field(default_factory=dict)  # requests a minute of tenants that pay for more
    user_requests_per_min: int = Field(default=1_000, ge=1)
    ip_requests_per_min: int = Field(default=3_000, ge=1)  # several tenants may stand behind one address
    max_body_bytes: int = Field(default=512 * 1024, ge=1024)  # a batch of 500 transactions is about 200 KB

    # pages: ClickHouse as its read-only account, and where reports of backtests are; without them the pages say that analytics is away
    clickhouse_url: str | None = None
    clickhouse_user: str = "analyst"
    clickhouse_password: SecretStr | None = None
    reports_dir: Path | None = None

    cors_origins: tuple[str, ...] = ()

    # scoring
    code_version: str = "unknown"  # recorded in every decision
    store_timeout_ms: int = Field(default=40, ge=1, le=50)  # of a call to Redis; an answer takes two, and less than 100 ms when both fail
    buffered_events: int = Field(default=1_000, ge=1)  # kept while Kafka is away
    city_db: Path | None = None
    asn_db: Path | None = None

    @property
    def is_production(self) -> bool:
        """Whether strangers may reach this process."""
        return self.environment == "production"

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("set either jwks_url or jwks_file")
        if self.is_production and self.jwks_url is not None and not self.jwks_url.startswith("https://"):
            raise ValueError("in production keys come over https")
        if len(self.signing_secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"signing_secret has at least {MIN_SECRET_BYTES} bytes")
        if "*" in self.cors_origins:
            raise ValueError("name the origins: any page on the web could call with its visitor's credentials")
        if any(limit < 1 for limit in self.tenant_limits.values()):
            raise ValueError("a limit is at least 1")
        return self

    def user_limit(self, tenant_id: str) -> int:
        """Requests a minute of one user or key; a tenant that has more for itself may use it through one key."""
        return max(self.user_requests_per_min, self.tenant_limits.get(tenant_id, 0))

    def tenant_limit(self, tenant_id: str) -> int:
        """Requests a minute that a tenant may make."""
        return self.tenant_limits.get(tenant_id, self.tenant_requests_per_min)
