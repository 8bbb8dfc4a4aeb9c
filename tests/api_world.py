"""What tests of the API need: an issuer with keys of its own, settings, and an application that is attended."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from api import gate, problems
from api.settings import ApiSettings

ISSUER = "https://issuer.test"
SECRET = "s" * 32


@dataclass
class Issuer:
    """Signs what it is told to, right or wrong."""

    ec_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    rsa_key: Any = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def jwks(self) -> dict[str, Any]:
        ec_jwk = ECAlgorithm.to_jwk(self.ec_key.public_key(), as_dict=True) | {"kid": "ec-1", "use": "sig"}
        rsa_jwk = RSAAlgorithm.to_jwk(self.rsa_key.public_key(), as_dict=True) | {"kid": "rsa-1", "use": "sig"}
        return {"keys": [ec_jwk, rsa_jwk]}

    def claims(self, now_s: float | None = None, **changed: Any) -> dict[str, Any]:
        """Good claims; a value of ``...`` leaves one out."""
        at = int(time.time() if now_s is None else now_s)
        good = {"iss": ISSUER, "aud": "fraudguard", "sub": "ann", "tenant_id": "acme", "role": "lead", "iat": at, "exp": at + 600}
        return {name: value for name, value in (good | changed).items() if value is not ...}

    def token(self, claims: dict[str, Any] | None = None, *, headers: dict[str, Any] | None = None, **changed: Any) -> str:
        return jwt.encode(claims or self.claims(**changed), self.ec_key, algorithm="ES256", headers={"kid": "ec-1", **(headers or {})})


def settings(folder: Path, issuer: Issuer, redis_url: str = "redis://127.0.0.1:1/0", **changed: Any) -> ApiSettings:
    """Settings of an API whose files are in ``folder``."""
    (folder / "jwks.json").write_text(json.dumps(issuer.jwks()))
    (folder / "ip.key").write_bytes(b"k" * 32)
    values: dict[str, Any] = {
        "environment": "development",
        "bootstrap_servers": "127.0.0.1:1",
        "redis_url": redis_url,
        "registry_url": "http://127.0.0.1:1",
        "models_dir": folder,
        "ip_hash_key_file": folder / "ip.key",
        "jwks_file": folder / "jwks.json",
        "issuer": ISSUER,
        "api_keys_file": folder / "keys.json",
        "signing_secret": SECRET,
    }
    return ApiSettings(**(values | changed))


@contextmanager
def attended(app: Any, **options: Any) -> Iterator[Any]:
    """A client of an application in this process, its lifespan running."""
    from starlette.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False, **options) as client:
        yield client


def gated(chosen: ApiSettings) -> FastAPI:
    """An application without operations behind the real gate."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gate.attend(app, chosen):
            yield

    app = FastAPI(lifespan=lifespan)
    problems.install(app)
    gate.install(app, chosen)
    return app
