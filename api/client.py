"""A typed client of the API, for programs and for the tests.

    with Client("https://fraud.example", api_key="fgk_…") as fraud:
        answer = fraud.score(ScoreRequest(transaction_id="t-1", card_id="c-1", …))

Every method returns the model that the OpenAPI document describes, or raises :class:`ApiProblem`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter

from api import signing
from api.bodies import (
    AuditBody,
    DecisionBody,
    DraftBody,
    ErasureBody,
    InForceBody,
    ReleaseBody,
    ReplayBody,
    RuleBody,
    RuleSetBody,
    VerdictBody,
)
from api.identity import API_KEY_HEADER
from api.schemas import BatchAnswer, BatchRequest, ScoreAnswer, ScoreRequest

__all__ = ["ApiProblem", "Client"]

M = TypeVar("M")
_TIMEOUT_S = 10.0
_PROBLEM = "urn:fraudguard:problem:"


class ApiProblem(Exception):
    """The API said no: ``code`` is stable, ``retry_after_s`` is when to come again, None when that would not help."""

    def __init__(self, status: int, code: str, detail: str | None, retry_after_s: float | None, body: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {code}{f': {detail}' if detail else ''}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.body = body


class Client:
    """Calls as one caller; safe to share between threads.

    Args:
        base_url: of the API.
        token: a bearer token, or
        api_key: a key.
        signing_secret: of that key; given, every request is signed.
        http: used in place of a connection pool of its own.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        signing_secret: str | None = None,
        http: httpx2.Client | None = None,
    ) -> None:
        if (token is None) == (api_key is None):
            raise ValueError("give either a token or an api_key")
        self._http = http or httpx2.Client(base_url=base_url, timeout=_TIMEOUT_S)
        self._credential = {"Authorization": f"Bearer {token}"} if api_key is None else {API_KEY_HEADER: api_key}
        self._signing_secret = signing_secret

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(self, request: ScoreRequest, *, idempotency_key: str | None = None) -> ScoreAnswer:
        """Decide a transaction."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._call("POST", "/v1/score", ScoreAnswer, request, headers=headers)

    def score_batch(self, requests: Sequence[ScoreRequest]) -> BatchAnswer:
        """Decide transactions in their order."""
        return self._call("POST", "/v1/score/batch", BatchAnswer, BatchRequest(transactions=list(requests)))

    def decision(self, decision_id: str) -> DecisionBody:
        """A past decision."""
        return self._call("GET", f"/v1/decisions/{decision_id}", DecisionBody)

    def replay(self, decision_id: str) -> ReplayBody:
        """A past decision computed again."""
        return self._call("POST", f"/v1/decisions/{decision_id}/replay", ReplayBody)

    def rules(self) -> InForceBody:
        """The rules in force."""
        return self._call("GET", "/v1/rules", InForceBody)

    def releases(self) -> list[ReleaseBody]:
        """Every version that was ever in force."""
        return self._call("GET", "/v1/rules/releases", list[ReleaseBody])

    def drafts(self) -> list[DraftBody]:
        """Every draft."""
        return self._call("GET", "/v1/rules/drafts", list[DraftBody])

    def rule_set(self, rule_set_hash: str) -> RuleSetBody:
        """A set of any time."""
        return self._call("GET", f"/v1/rules/sets/{rule_set_hash}", RuleSetBody)

    def validate_rules(self, rules: Sequence[RuleBody]) -> VerdictBody:
        """Whether a set can be used."""
        return self._call("POST", "/v1/rules/validate", VerdictBody, RuleSetBody(rules=list(rules)))

    def draft_rules(self, rules: Sequence[RuleBody]) -> DraftBody:
        """Keep a set."""
        return self._call("POST", "/v1/rules/drafts", DraftBody, RuleSetBody(rules=list(rules)))

    def shadow_rules(self, rule_set_hash: str, *, looked_at: int) -> ReleaseBody:
        """Try a set beside the version that was looked at."""
        return self._change(f"/v1/rules/sets/{rule_set_hash}/shadow", looked_at)

    def promote_rules(self, rule_set_hash: str, *, looked_at: int, traffic_percentage: float = 100.0) -> ReleaseBody:
        """Put a set in force in place of the version that was looked at, or beside it for a share of the cards."""
        return self._change(f"/v1/rules/sets/{rule_set_hash}/promote?traffic_percentage={traffic_percentage}", looked_at)

    def roll_back_rules(self, *, looked_at: int, version: int | None = None) -> ReleaseBody:
        """Put an earlier set back in force."""
        return self._change("/v1/rules/rollback", looked_at, {"version": version})

    def withdraw_rules(self, *, looked_at: int) -> ReleaseBody:
        """Try no set any more beside the version that was looked at."""
        return self._change("/v1/rules/withdraw", looked_at)

    def erase(self, kind: str, subject_id: str) -> ErasureBody:
        """Erase a subject."""
        return self._call("DELETE", f"/v1/subjects/{kind}/{quote(subject_id, safe='')}", ErasureBody)

    def audit(self, *, after: int = 0, limit: int = 100) -> AuditBody:
        """Who changed what."""
        return self._call("GET", f"/v1/audit?after={after}&limit={limit}", AuditBody)

    def _change(self, path: str, looked_at: int, body: Mapping[str, Any] | None = None) -> ReleaseBody:
        return self._call("POST", path, ReleaseBody, body, headers={"If-Match": f'"{looked_at}"'})

    def _call(
        self,
        method: str,
        path: str,
        kind: type[M],
        body: BaseModel | Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> M:
        content = b"" if body is None else TypeAdapter(type(body)).dump_json(body)
        request = self._http.build_request(method, path, content=content, headers={**self._credential, **(headers or {})})
        if body is not None:
            request.headers["Content-Type"] = "application/json"
        if self._signing_secret is not None:
            now_s = int(time.time())
            target = request.url.raw_path.decode("ascii")
            request.headers[signing.SIGNATURE_HEADER] = signing.sign(self._signing_secret, method, target, now_s, content)
            request.headers[signing.TIME_HEADER] = str(now_s)
        response = self._http.send(request)
        if response.is_success:
            return TypeAdapter(kind).validate_json(response.content)
        raise _problem(response)


def _problem(response: httpx2.Response) -> ApiProblem:
    try:
        body: dict[str, Any] = response.json()
    except ValueError:  # something between us and the API has answered
        body = {}
    wait = response.headers.get("Retry-After", "")
    retry_after_s = float(wait) if wait.isdigit() else None
    code = str(body.get("type", "unknown")).removeprefix(_PROBLEM)
    return ApiProblem(response.status_code, code, body.get("detail"), retry_after_s, body)
