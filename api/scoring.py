"""The scoring routes: one transaction, or several in order.  ``/api/v1/score`` and ``/fraud/detect`` are other names of the first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from api.answers import Answers, Ask, Timing
from api.gate import Doorkeeper
from api.identity import Caller, Role, require
from api.problems import Problem, answer, problem_of, responses
from api.schemas import BatchAnswer, BatchRequest, ScoreAnswer, ScoreRequest
from api.strict_json import StrictRoute
from api.tracing import HEADER, Trace, continued

__all__ = ["PATHS", "router"]

PATHS = ("/v1/score", "/api/v1/score", "/fraud/detect")
_JSON = "application/json"

router = APIRouter(tags=["scoring"], route_class=StrictRoute)

Scoring = Annotated[Caller, require(Role.SERVICE, Role.ADMIN)]
Key = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
TenantHeader = Annotated[str | None, Header(alias="tenant-id", max_length=128, description="May be sent; must then be the caller's own.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What every scoring request brings besides its body."""

    answers: Answers
    trace: Trace
    timing: Timing


async def _asked(request: Request) -> Asked:
    answers: Answers = request.state.answers  # the lifespan has put it there
    return Asked(answers, continued(request.headers.get(HEADER)), Timing(time.perf_counter()))


Context = Annotated[Asked, Depends(_asked)]


async def score(body: ScoreRequest, caller: Scoring, asked: Context, key: Key = None, tenant: TenantHeader = None) -> Response:
    """Decide one transaction.  The same question again gets the first answer, byte for byte, for a day."""
    _check_tenant(caller, tenant)
    (result,) = await asked.answers.answer([Ask(body.transaction(caller.tenant_id), body.content(), key)], asked.trace, asked.timing)
    if isinstance(result, Exception):
        raise result
    return _json(result, asked)


async def score_batch(body: BatchRequest, caller: Scoring, asked: Context, request: Request, tenant: TenantHeader = None) -> Response:
    """Decide transactions in their order.  Each is as if sent alone: its own answer or problem, repeated when it is sent again."""
    _check_tenant(caller, tenant)
    keeper: Doorkeeper = request.app.state.doorkeeper
    await keeper.spend(caller, len(body.transactions) - 1)
    asks = [Ask(one.transaction(caller.tenant_id), one.content()) for one in body.transactions]
    results = await asked.answers.answer(asks, asked.trace, asked.timing)
    return _json(_joined(results), asked)


def _check_tenant(caller: Caller, tenant: str | None) -> None:
    if tenant is not None and tenant != caller.tenant_id:
        raise Problem(403, "denied", "the tenant-id is not the caller's")


def _joined(results: Sequence[bytes | Exception]) -> bytes:
    """Answers as they were written, and problems, in one document."""
    items = [bytes(answer(problem_of(one)).body) if isinstance(one, Exception) else one for one in results]
    return b'{"answers":[' + b",".join(items) + b"]}"


def _json(content: bytes, asked: Asked) -> Response:
    return Response(content, media_type=_JSON, headers={HEADER: asked.trace.traceparent, "server-timing": asked.timing.header})


_DOCUMENTED = responses(400, 409, 422)
for _path in PATHS:
    router.add_api_route(
        _path,
        score,
        methods=["POST"],
        response_class=Response,
        responses={200: {"model": ScoreAnswer, "description": "The decision."}, **_DOCUMENTED},
        operation_id=f"score{_path.removesuffix('/score').replace('/', '_')}",
    )
router.add_api_route(
    "/v1/score/batch",
    score_batch,
    methods=["POST"],
    response_class=Response,
    responses={200: {"model": BatchAnswer, "description": "Answers and problems, in order."}, **responses(400, 422)},
    operation_id="score_batch",
)
