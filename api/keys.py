"""API keys: a file of their hashes, read into memory, so that a caller is known whatever else is down.

A key is ``fgk_<id>_<secret>``; the secret has 256 random bits, so its plain SHA-256 cannot be searched.  The file also names the
token-signing keys that are revoked.  Whoever deploys mounts it as a secret; a changed file takes effect within a second.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from api.identity import Caller, Role, Unauthenticated
from serving.clock import now_ms

__all__ = ["ApiKey", "ApiKeys", "KeyFile"]

_FORM = re.compile(r"fgk_([0-9a-f]{16})_([0-9a-f]{64})")
_LOOK_AGAIN_S = 1.0
_NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key; ``must_sign`` refuses its requests unless they are signed."""

    key_id: str
    secret_sha256: str
    tenant_id: str
    subject: str
    role: Role
    created_ms: int
    must_sign: bool = False
    revoked_ms: int | None = None

    @property
    def caller(self) -> Caller:
        """Whom it stands for."""
        return Caller(self.tenant_id, self.subject, self.role)


@dataclass(frozen=True, slots=True)
class _Content:
    keys: dict[str, ApiKey]
    revoked_kids: frozenset[str]


class KeyFile:
    """The file as those who manage keys see it; every change replaces it in one step, under a lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> _Content:
        """Its content; an absent file has none."""
        try:
            plain = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return _Content({}, frozenset())
        keys = [ApiKey(**{**one, "role": Role(one["role"])}) for one in plain["keys"]]
        return _Content({key.key_id: key for key in keys}, frozenset(plain["revoked_kids"]))

    def create(self, tenant_id: str, subject: str, role: Role, *, must_sign: bool = False) -> tuple[ApiKey, str]:
        """Add a key; returns it and the text that its owner gets, which is nowhere else."""
        key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
        key = ApiKey(key_id, sha256(secret.encode()).hexdigest(), tenant_id, subject, role, now_ms(), must_sign)
        with self._change() as content:
            content.keys[key_id] = key
            self._write(content)
        return key, f"fgk_{key_id}_{secret}"

    def revoke(self, key_id: str) -> bool:
        """Revoke an API key; False when there is none of that id."""
        with self._change() as content:
            key = content.keys.get(key_id)
            if key is None:
                return False
            content.keys[key_id] = replace(key, revoked_ms=key.revoked_ms or now_ms())
            self._write(content)
        return True

    def revoke_kid(self, kid: str) -> None:
        """Revoke a key that signs tokens, whatever the issuer still says of it."""
        with self._change() as content:
            self._write(replace(content, revoked_kids=content.revoked_kids | {kid}))

    @contextmanager
    def _change(self) -> Iterator[_Content]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.read()

    def _write(self, content: _Content) -> None:
        plain: dict[str, Any] = {"keys": [asdict(key) for key in content.keys.values()], "revoked_kids": sorted(content.revoked_kids)}
        staged = self._path.with_suffix(".new")
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - with a mode
            json.dump(plain, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self._path)


class ApiKeys:
    """Keys to callers, from the file as it is now.

    Args:
        path: of the file; None is an installation without API keys.
        clock: seconds of any beginning.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._content = _Content({}, frozenset())
        self._mark: tuple[int, int] | None = None
        self._looked_s = -_LOOK_AGAIN_S

    def verify(self, text: str) -> ApiKey:
        """The key that a caller shows; raises Unauthenticated."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise Unauthenticated
        key = self._now().keys.get(form[1])
        # an unknown id takes as long as a wrong secret
        known = hmac.compare_digest(sha256(form[2].encode()).hexdigest(), _NO_HASH if key is None else key.secret_sha256)
        if key is None or not known or key.revoked_ms is not None:
            raise Unauthenticated
        return key

    def is_revoked(self, kid: str) -> bool:
        """Whether a key that signs tokens was revoked."""
        return kid in self._now().revoked_kids

    def _now(self) -> _Content:
        now_s = self._clock()
        if self._path is not None and now_s - self._looked_s >= _LOOK_AGAIN_S:
            self._looked_s = now_s
            self._look(self._path)
        return self._content

    def _look(self, path: Path) -> None:
        """Take the file over if it has changed; one that cannot be read leaves the keys as they were."""
        try:
            status = path.stat()
        except FileNotFoundError:
            self._content, self._mark = _Content({}, frozenset()), None
            return
        mark = (status.st_mtime_ns, status.st_ino)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._content = KeyFile(path).read()
        except (OSError, ValueError, KeyError, TypeError) as error:
            structlog.get_logger().error("api_keys_unreadable", reason=type(error).__name__)
