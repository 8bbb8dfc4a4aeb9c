"""Access to the API of the local stack: the development issuer, the file of API keys and the secrets, made once under the home.

Production brings its own issuer; nothing made here is used there.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pydantic import SecretStr

from analytics.settings import HouseSettings
from api.identity import Role
from api.keys import KeyFile
from api.settings import ApiSettings
from api.tokens import MAX_LIFETIME_S
from infra.house_access import house_settings
from infra.layout import Layout
from infra.plan import Plan
from infra.scoring_job import code_version, ip_hash_key_file, models_dir

__all__ = ["ISSUER", "Access", "api_settings"]

ISSUER = "fraudguard-development"
_SECRET_BYTES = 32
_LOCAL_LIMIT = 600_000


@dataclass(frozen=True)
class Access:
    """The files of one home, made on first use and readable by their owner only."""

    layout: Layout

    @property
    def _folder(self) -> Path:
        folder = self.layout.home / "secrets" / "api"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    @property
    def key_file(self) -> KeyFile:
        """The API keys."""
        return KeyFile(self.key_path)

    @property
    def key_path(self) -> Path:
        """Where the API keys are."""
        return self._folder / "keys.json"

    @property
    def jwks_path(self) -> Path:
        """The public keys of the development issuer."""
        path = self._folder / "jwks.json"
        if not path.exists():
            self._issuer_key()
        return path

    @property
    def signing_secret(self) -> str:
        """From which the signing secrets of API keys are derived."""
        path = self._folder / "signing.secret"
        if not path.exists():
            _write(path, secrets.token_hex(_SECRET_BYTES).encode())
        return path.read_text(encoding="ascii")

    def issue_token(self, tenant_id: str, subject: str, role: Role, *, lifetime_s: int = MAX_LIFETIME_S) -> str:
        """A bearer token of the development issuer."""
        key = self._issuer_key()
        now_s = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": "fraudguard",
            "sub": subject,
            "tenant_id": tenant_id,
            "role": role.value,
            "iat": now_s,
            "exp": now_s + lifetime_s,
        }
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": self._kid()})

    def _kid(self) -> str:
        return str(json.loads(self.jwks_path.read_bytes())["keys"][0]["kid"])

    def _issuer_key(self) -> ec.EllipticCurvePrivateKey:
        path = self._folder / "issuer.pem"
        if not path.exists():
            new = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(new.public_key(), as_dict=True)
            described = public | {"kid": f"development-{secrets.token_hex(4)}", "use": "sig", "alg": "ES256"}
            _write(self._folder / "jwks.json", json.dumps({"keys": [described]}).encode())
            _write(
                path,
                new.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            )
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{path} is not a key on a curve")
        return key


def api_settings(plan: Plan) -> ApiSettings:
    """Settings of an API on this stack."""
    access = Access(plan.layout)
    # without analytics the settings say nothing, and the environment may
    house = {} if plan.addresses.clickhouse_url is None else _reader(house_settings(plan))
    return ApiSettings(
        environment="development",
        # every caller of this machine shares one address, and the bench and the demonstration are tenants that pay for more
        ip_requests_per_min=_LOCAL_LIMIT,
        tenant_limits={"bench": _LOCAL_LIMIT, "default": _LOCAL_LIMIT},
        port=plan.settings.api_port,
        bootstrap_servers=plan.addresses.bootstrap_servers,
        redis_url=SecretStr(plan.addresses.redis_url),
        registry_url=plan.addresses.registry_url,
        models_dir=models_dir(plan.layout),
        ip_hash_key_file=ip_hash_key_file(plan.layout),
        jwks_file=access.jwks_path,
        issuer=ISSUER,
        api_keys_file=access.key_path,
        signing_secret=SecretStr(access.signing_secret),
        code_version=code_version(),
        reports_dir=plan.layout.reports,
        **house,
    )


def _reader(house: HouseSettings) -> dict[str, Any]:
    """The account that pages read with; the writer's is no business of the API."""
    return {"clickhouse_url": house.url, "clickhouse_user": house.reader_user, "clickhouse_password": house.reader_password}


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    staged = path.with_suffix(".new")
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - with a mode
        file.write(content)
    staged.replace(path)
