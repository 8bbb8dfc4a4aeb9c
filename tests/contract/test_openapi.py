"""The OpenAPI document as a contract: checked in, complete, and honest about who may do what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.app import create_app
from api.identity import PUBLIC_PATHS
from api.openapi import DOCUMENT, _settings, document, text

APP = create_app(_settings())
CHECKED_IN: dict[str, Any] = json.loads(DOCUMENT.read_text())
OPERATIONS = [(method, path) for path, item in CHECKED_IN["paths"].items() for method in item]
operations = pytest.mark.parametrize(("method", "path"), OPERATIONS)


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = CHECKED_IN["paths"][path][method]
    return found


def test_the_document_is_that_of_the_routes() -> None:
    """Red after a change of routes or bodies: look at the difference, then ``python -m api.openapi``."""
    assert DOCUMENT.read_text() == text(APP)


def test_it_is_openapi_3_1() -> None:
    assert document(APP)["openapi"] == "3.1.0"


def test_no_operation_has_anothers_name() -> None:
    names = [operation(*one)["operationId"] for one in OPERATIONS]
    assert len(names) == len(set(names))


@operations
def test_whoever_is_asked_for_a_credential_is_told_of_the_ways_it_can_fail(method: str, path: str) -> None:
    found = operation(method, path)
    if path in PUBLIC_PATHS:
        assert "security" not in found
    else:
        assert found["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}]
        assert {"401", "403", "413", "429", "500", "503"} <= found["responses"].keys()


@operations
def test_every_error_is_a_problem(method: str, path: str) -> None:
    for status, answer in operation(method, path)["responses"].items():
        if not status.startswith("2") and path not in PUBLIC_PATHS:
            assert list(answer["content"]) == ["application/problem+json"]


@operations
def test_every_operation_says_what_it_does(method: str, path: str) -> None:
    assert len(operation(method, path)["description"]) > 10


@operations
def test_every_text_that_is_sent_has_a_bound(method: str, path: str) -> None:
    """In paths and headers; bodies are bounded by their size."""
    for parameter in operation(method, path).get("parameters", []):
        schemas = parameter["schema"].get("anyOf", [parameter["schema"]])
        for schema in schemas:
            if schema.get("type") == "string":
                assert schema.keys() & {"maxLength", "pattern", "enum"}, parameter["name"]


def test_no_request_takes_what_it_does_not_know() -> None:
    """Mass assignment: every body of a request forbids further names."""
    for one in OPERATIONS:
        body = operation(*one).get("requestBody")
        if body is not None:
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert CHECKED_IN["components"]["schemas"][name]["additionalProperties"] is False


def test_a_changed_document_would_be_seen() -> None:
    """The negative control."""
    assert DOCUMENT.read_text().replace('"/v1/score"', '"/v2/score"') != text(APP)
