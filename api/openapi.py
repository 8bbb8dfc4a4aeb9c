"""The OpenAPI document: ``python -m api.openapi`` writes ``docs/openapi.json``; a test holds the routes to it.

FastAPI documents its own validation errors; ours are problems, so they take their place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import ProblemBody

__all__ = ["DOCUMENT", "describe", "document", "text"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})


def describe(app: FastAPI) -> None:
    """Have the application serve :func:`document`."""
    app.openapi = lambda: document(app)  # type: ignore[method-assign]  # FastAPI's documented way


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
        app.openapi_schema = made
    return app.openapi_schema


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
    sys.exit(main())
