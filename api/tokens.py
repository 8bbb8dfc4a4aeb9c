"""Bearer tokens: signed by a key of the issuer that we already hold, for us, for an hour at most, with claims of the right types.

A token chooses among the keys we hold and nothing else: its header names no algorithm, address or key that we would use.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import jwt
from jwt.exceptions import PyJWTError

from api.identity import Caller, Role, Unauthenticated
from api.settings import ApiSettings
from fraud.errors import Unavailable

__all__ = ["KeySet", "TokenVerifier", "load_key_set"]

LEEWAY_S = 30
MAX_LIFETIME_S = 3_600
_MAX_TOKEN_CHARS = 4_096
_MAX_JWKS_BYTES = 256 * 1024
_FETCH_TIMEOUT_S = 5.0
_CACHED_TOKENS = 10_000  # verifying a signature costs as much as scoring
_MIN_RSA_BITS = 2_048
_FOREIGN_KEYS = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})  # headers that would bring a key, or a rule, of their own
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_BY_RESPONSIBILITY = (Role.ADMIN, Role.LEAD, Role.ANALYST, Role.SERVICE)


@dataclass(frozen=True, slots=True)
class _Key:
    public: Any
    algorithm: str


class KeySet:
    """The public keys of an issuer by key id; keys of other uses and kinds are left out.

    Args:
        document: a JWK set (RFC 7517).
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._keys: dict[str, _Key] = {}
        for key in document["keys"]:
            algorithm = _ALGORITHMS.get((key.get("kty"), key.get("crv")))
            kid = key.get("kid")
            if algorithm is None or not isinstance(kid, str) or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
                continue
            public = jwt.PyJWK(key, algorithm).key
            if key["kty"] != "RSA" or public.key_size >= _MIN_RSA_BITS:
                self._keys[kid] = _Key(public, algorithm)

    def find(self, kid: str) -> _Key | None:
        """The key of an id."""
        return self._keys.get(kid)

    def __len__(self) -> int:
        return len(self._keys)


def load_key_set(settings: ApiSettings) -> KeySet:
    """Read the issuer's keys from where the settings say; blocks; raises Unavailable."""
    try:
        if settings.jwks_file is not None:
            text = settings.jwks_file.read_bytes()
        else:
            with urlopen(str(settings.jwks_url), timeout=_FETCH_TIMEOUT_S) as response:  # noqa: S310 - the operator's own setting
                text = response.read(_MAX_JWKS_BYTES + 1)
        keys = KeySet(json.loads(text[:_MAX_JWKS_BYTES]))
    except (OSError, URLError, ValueError, KeyError, TypeError, AttributeError, PyJWTError) as error:
        raise Unavailable("issuer", type(error).__name__) from error
    if not keys:
        raise Unavailable("issuer", "no usable key")
    return keys


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    key: _Key
    kid: str
    not_before_s: float
    expires_s: float


class TokenVerifier:
    """Tokens to callers; belongs to one event loop.

    Args:
        settings: issuer, audience and the names of claims.
        keys: the issuer's keys; put newer ones into :attr:`keys`.
        is_revoked: whether a key id may no longer sign.
        clock: seconds since 1970.
    """

    def __init__(self, settings: ApiSettings, keys: KeySet, is_revoked: Callable[[str], bool], clock: Callable[[], float]) -> None:
        self.keys = keys
        self._issuer, self._audience = settings.issuer, settings.audience
        self._tenant_claim, self._role_path = settings.tenant_claim, settings.role_claim.split(".")
        self._is_revoked = is_revoked
        self._clock = clock
        self._seen: OrderedDict[str, _Verified] = OrderedDict()

    def verify(self, token: str) -> Caller:
        """The caller whom a token names; raises Unauthenticated, whatever is wrong with it."""
        found = self._seen.get(token)
        if found is None:
            found = self._seen[token] = self._verify(token)
            if len(self._seen) > _CACHED_TOKENS:
                self._seen.popitem(last=False)
        now_s = self._clock()
        if (
            not found.not_before_s - LEEWAY_S <= now_s < found.expires_s + LEEWAY_S
            or self._is_revoked(found.kid)
            or self.keys.find(found.kid) != found.key
        ):
            del self._seen[token]
            raise Unauthenticated
        return found.caller

    def _verify(self, token: str) -> _Verified:
        if len(token) > _MAX_TOKEN_CHARS:
            raise Unauthenticated
        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            key = self.keys.find(kid) if isinstance(kid, str) and not _FOREIGN_KEYS & header.keys() else None
            if key is None:
                raise Unauthenticated
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                # times are checked below, against our clock and with their types
                options={
                    "require": ["iss", "aud", "sub", "exp", "iat"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (PyJWTError, ValueError, TypeError) as error:
            raise Unauthenticated from error
        issued_s, expires_s = _time(claims, "iat"), _time(claims, "exp")
        if not 0 < expires_s - issued_s <= MAX_LIFETIME_S:
            raise Unauthenticated
        not_before_s = max(issued_s, _time(claims, "nbf") if "nbf" in claims else issued_s)
        caller = Caller(_name(claims.get(self._tenant_claim)), _name(claims["sub"]), self._role(claims))
        return _Verified(caller, key, str(kid), not_before_s, expires_s)

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The one role that the claim names, or the most responsible of several; other issuers' words are passed over."""
        value: Any = claims
        for part in self._role_path:
            value = value.get(part) if isinstance(value, Mapping) else None
        named = value if isinstance(value, list) else [value]
        for role in _BY_RESPONSIBILITY:
            if role.value in named:
                return role
        raise Unauthenticated


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unauthenticated
    return value


def _name(value: Any) -> str:
    """A tenant or a subject: text as it may stand in a key (see ``serving.validate``)."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 255 or value != value.strip() or "|" in value:
        raise Unauthenticated
    return value
