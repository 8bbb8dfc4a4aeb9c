"""The OpenAPI document: ``python -m api.openapi`` writes ``docs/openapi.json``; a test holds the routes to it.

FastAPI documents its own validation errors; ours are problems, so they take their place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from api.problems import Problem, ProblemBody, answer

__all__ = ["DOCUMENT", "describe", "document", "text"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})
_PARAMETER = re.compile(r"\\{\w+\\}")

# Where what one operation answers is what another one asks for.
_LINKS: dict[str, dict[str, str]] = {
    "decision_id": {"decision": "show_decision", "replay": "replay_decision"},
    "rule_set_hash": {"rules": "show_rule_set", "shadow": "shadow_rules", "promote": "promote_rules"},
}
_LINKED_FROM = {
    "score_v1": "decision_id",
    "score_api_v1": "decision_id",
    "score_fraud_detect": "decision_id",
    "draft_rules": "rule_set_hash",
}


def describe(app: FastAPI) -> None:
    """Have the application serve :func:`document`."""
    app.openapi = lambda: document(app)  # type: ignore[method-assign]  # FastAPI's documented way

    async def method_not_allowed(request: Request, _error: Exception) -> Response:
        """Names all methods of the path: the router knows those of one route."""
        allowed = {method.upper() for pattern, methods in _paths(app) if pattern.fullmatch(request.url.path) for method in methods}
        return answer(Problem(405, "method_not_allowed", headers={"Allow": ", ".join(sorted(allowed))} if allowed else None))

    app.add_exception_handler(405, method_not_allowed)


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, openapi_version="3.1.0", routes=app.routes, summary="Card-fraud decisions")
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        body = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= body.pop("$defs", {}) | {"ProblemBody": body}
        for operation in _operations(made):
            answers = operation["responses"]
            if "application/json" in answers.get("422", {}).get("content", {}):
                del answers["422"]
            _link(operation)
        app.openapi_schema = made
    return app.openapi_schema


def _paths(app: FastAPI) -> list[tuple[re.Pattern[str], list[str]]]:
    """A pattern of each path, and its methods."""
    return [(re.compile(_PARAMETER.sub("[^/]+", re.escape(path))), list(item)) for path, item in document(app)["paths"].items()]


def _link(operation: dict[str, Any]) -> None:
    field = _LINKED_FROM.get(operation["operationId"])
    if field is not None:
        success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        success["links"] = {
            name: {"operationId": target, "parameters": {field: f"$response.body#/{field}"}} for name, target in _LINKS[field].items()
        }


def text(app: FastAPI) -> str:
    """The document as it is checked in."""
    return json.dumps(document(app), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _operations(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in made["paths"].values() for method, operation in path.items() if method in _METHODS]


def main() -> None:
    """Write the document of the application as it is."""
    from api.app import create_app  # noqa: PLC0415 - which imports this module

    DOCUMENT.write_text(text(create_app(_settings())), encoding="utf-8")


def _settings() -> Any:
    """Settings that open nothing: the document does not depend on them."""
    from api.settings import ApiSettings  # noqa: PLC0415

    nowhere = {"bootstrap_servers": "-", "registry_url": "-", "models_dir": ".", "ip_hash_key_file": ".", "jwks_file": ".", "issuer": "-"}
    return ApiSettings(environment="development", redis_url="redis://-", signing_secret="-" * 32, **nowhere)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
