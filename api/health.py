"""Whether this process lives, whether it should get traffic, and what it counts.

It is ready as long as it can decide better than "deny everything": what is away costs a part of the answer, and taking every process
out of service because Redis or Kafka is away would cost all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from api.metrics import ApiMetrics
from api.publisher import KafkaPublisher
from api.redis_channel import Redis
from api.releases import ReleaseFollower
from api.sides import InForce
from fraud.errors import Unavailable
from serving.breakers import Breaker, BreakerState

__all__ = ["Health", "Readiness", "router"]

router = APIRouter(tags=["operations"])

State = Literal["up", "degraded", "down"]


class Dependency(BaseModel):
    """One thing that decisions rest on."""

    state: State
    detail: str = ""


class Readiness(BaseModel):
    """``ready`` when traffic is welcome; ``status`` is the worst of what decisions rest on."""

    ready: bool
    status: State
    dependencies: dict[str, Dependency]


class Liveness(BaseModel):
    """That the process answers."""

    status: Literal["ok"] = "ok"


@dataclass(frozen=True, slots=True)
class Health:
    """Asks every dependency how it is."""

    redis: Redis
    publisher: KafkaPublisher
    follower: ReleaseFollower
    in_force: InForce
    breakers: Sequence[Breaker]
    metrics: ApiMetrics

    async def readiness(self) -> Readiness:
        """How everything is now; waits for Redis as long as a request would."""
        found = {"redis": await self._redis(), "kafka": self._kafka(), "model": self._side("model"), "rules": self._side("rules")}
        ready = not (found["model"].state == "down" and found["rules"].state == "down")
        worst: State = "down" if not ready else "up" if all(one.state == "up" for one in found.values()) else "degraded"
        return Readiness(ready=ready, status=worst, dependencies=found)

    async def _redis(self) -> Dependency:
        try:
            await self.redis.call([("PING",)])
        except Unavailable as error:
            return Dependency(state="down", detail=error.detail)
        return Dependency(state="up")

    def _kafka(self) -> Dependency:
        if self.publisher.is_behind:
            return Dependency(state="down", detail=f"{self.publisher.waiting} events wait")
        if not self.follower.is_current:
            return Dependency(state="degraded", detail="rules and models of the topics are not read yet")
        return Dependency(state="up")

    def _side(self, name: str) -> Dependency:
        if getattr(self.in_force.versions, name) is None:
            return Dependency(state="down", detail="there is none")
        open_ = any(breaker.name == name and breaker.state is not BreakerState.CLOSED for breaker in self.breakers)
        return Dependency(state="down", detail="it has failed or been too slow") if open_ else Dependency(state="up")


def _health(request: Request) -> Health:
    found: Health = request.state.health
    return found


@router.get("/health", operation_id="health")
async def health() -> Liveness:
    """Whether the process lives."""
    return Liveness()


@router.get(
    "/health/ready",
    operation_id="ready",
    responses={200: {"model": Readiness}, 503: {"model": Readiness, "description": "It could only deny."}},
)
async def ready(request: Request) -> JSONResponse:
    """Whether the process should get traffic, and how each dependency is."""
    found = await _health(request).readiness()
    return JSONResponse(found.model_dump(), 200 if found.ready else 503)


@router.get("/metrics", operation_id="metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """What this process counts, in Prometheus' text format."""
    return Response(generate_latest(_health(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
