"""Attempts at the running API: other people's objects, other people's roles, forged identities, bodies that are too much, and schemathesis.

The cases come from the OpenAPI document: an operation or a parameter without a case of its own fails here.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from api.client import Client
from api.identity import PUBLIC_PATHS, Role
from api.openapi import DOCUMENT
from fraud.events import Kind, decision_id, entity_key
from serving.online_store import EntityRow, OnlineStore
from tests.api_stack import ApiStack, score_request

SERVICE, ANALYST, LEAD, ADMIN = Role
PEOPLE, LEADS = {ANALYST, LEAD, ADMIN}, {LEAD, ADMIN}
# Who may call what. A new operation belongs here before it is released.
ROLES: dict[tuple[str, str], set[Role]] = {
    ("post", "/v1/score"): {SERVICE, ADMIN},
    ("post", "/api/v1/score"): {SERVICE, ADMIN},
    ("post", "/fraud/detect"): {SERVICE, ADMIN},
    ("post", "/v1/score/batch"): {SERVICE, ADMIN},
    ("get", "/v1/decisions/{decision_id}"): set(Role),
    ("post", "/v1/decisions/{decision_id}/replay"): PEOPLE,
    ("get", "/v1/rules"): PEOPLE,
    ("get", "/v1/rules/releases"): PEOPLE,
    ("get", "/v1/rules/drafts"): PEOPLE,
    ("get", "/v1/rules/sets/{rule_set_hash}"): PEOPLE,
    ("post", "/v1/rules/validate"): PEOPLE,
    ("post", "/v1/rules/drafts"): LEADS,
    ("post", "/v1/rules/sets/{rule_set_hash}/shadow"): LEADS,
    ("post", "/v1/rules/sets/{rule_set_hash}/promote"): LEADS,
    ("post", "/v1/rules/rollback"): LEADS,
    ("post", "/v1/rules/withdraw"): LEADS,
    ("delete", "/v1/subjects/{kind}/{subject_id}"): LEADS,
    ("get", "/v1/audit"): LEADS,
}
# What a path needs to be well-formed; what it names is not there.
ANYTHING = {"decision_id": decision_id("acme", "nothing"), "rule_set_hash": "f" * 64, "kind": "card", "subject_id": "nothing"}
# Installation-wide, not a tenant's: every tenant's people may read the rules that decide about it.
SHARED = {"rule_set_hash"}

PATHS: dict[str, Any] = json.loads(DOCUMENT.read_text())["paths"]
OPERATIONS = [(method, path) for path, item in PATHS.items() for method in item]
CLOSED = [one for one in OPERATIONS if one[1] not in PUBLIC_PATHS]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiStack]:
    limits = {"FRAUDGUARD_API_TENANT_LIMITS": '{"default": 10000000, "acme": 10000000, "other": 10000000}'}
    running = ApiStack(tmp_path_factory.mktemp("home"), limits)
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def http(stack: ApiStack) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=stack.url, timeout=30) as client:
        yield client


def bearer(stack: ApiStack, role: Role = ADMIN, tenant: str = "default") -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.access.issue_token(tenant, 'mallory', role)}"}


def call(http: httpx2.Client, method: str, path: str, headers: dict[str, str], values: dict[str, str] | None = None) -> httpx2.Response:
    """An operation with a body of {} where it takes one."""
    filled = path.format(**(ANYTHING | (values or {})))
    takes_body = "requestBody" in PATHS[path][method]
    return http.request(method, filled, headers=headers, json={} if takes_body else None)


def test_the_table_of_roles_is_that_of_the_routes() -> None:
    assert set(ROLES) == set(CLOSED)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_an_operation_opens_for_its_roles_and_for_nobody_else(stack: ApiStack, http: httpx2.Client, method: str, path: str) -> None:
    opened = {role for role in Role if call(http, method, path, bearer(stack, role)).status_code != 403}
    assert opened == ROLES[method, path]
    assert call(http, method, path, {}).status_code == 401


def test_only_health_and_metrics_answer_a_stranger(http: httpx2.Client) -> None:
    answering = {path for method, path in OPERATIONS if call(http, method, path, {}).status_code not in (401, 503)}
    assert answering == set(PUBLIC_PATHS)
    assert {http.get(path).status_code for path in ("/admin", "/v1", "/.env", "/v1/rules/", "/V1/rules")} == {401}


def test_no_operation_gives_or_changes_what_is_another_tenants(stack: ApiStack, http: httpx2.Client) -> None:
    """The tenant matrix: every operation with a path parameter, as every role of another tenant, on objects that are there."""
    named = {name for _, path in CLOSED for name in re.findall(r"{(\w+)}", path)}
    assert named == ANYTHING.keys(), "a new kind of object needs a case here"
    store = OnlineStore(stack.plan.addresses.redis_url, timeout_s=1.0)
    row = EntityRow(Kind.CARD, entity_key("acme", "c-matrix"), b"state", 7, 1)
    store.write([row], epoch=1)
    with Client(stack.url, token=stack.access.issue_token("acme", "shop", SERVICE)) as shop:
        secret = shop.score(score_request("tx-matrix", card_id="c-matrix"))
        objects = {"decision_id": secret.decision_id, "kind": "card", "subject_id": "c-matrix", "rule_set_hash": "f" * 64}
        leaks = []
        for method, path in CLOSED:
            if "{" not in path:
                continue
            for role in ROLES[method, path]:
                answer = call(http, method, path, bearer(stack, role, "other"), objects)
                if "tx-matrix" in answer.text or "c-matrix" in answer.text:
                    leaks.append((method, path, role))
                if not SHARED & set(re.findall(r"{(\w+)}", path)) and method != "delete" and answer.status_code != 404:
                    leaks.append((method, path, role))
        assert leaks == []
        assert shop.decision(secret.decision_id).transaction_id == "tx-matrix"
    assert store.read([(row.kind, row.key)])[0] is not None
    store.close()


@pytest.mark.parametrize(("method", "path"), [one for one in CLOSED if "{" not in one[1] and one[0] == "get"])
def test_a_list_holds_nothing_of_another_tenant(stack: ApiStack, http: httpx2.Client, method: str, path: str) -> None:
    with Client(stack.url, token=stack.access.issue_token("acme", "officer-of-acme", LEAD)) as officer:
        officer.erase("card", "c-listed")
    for extra in ("", "?tenant_id=acme", "?limit=500&tenant=acme"):
        answer = http.request(method, path + extra, headers=bearer(stack, LEAD, "other"))
        assert answer.status_code == 200
        assert "officer-of-acme" not in answer.text


@pytest.mark.parametrize("place", ["header", "query", "body"])
def test_no_tenant_but_the_tokens_counts(stack: ApiStack, http: httpx2.Client, place: str) -> None:
    headers = bearer(stack, SERVICE, "acme")
    body = score_request(f"tx-{place}").model_dump(mode="json", exclude_defaults=True)
    if place == "header":
        assert http.post("/v1/score", headers=headers | {"tenant-id": "other"}, json=body).status_code == 403
    elif place == "body":
        assert http.post("/v1/score", headers=headers, json=body | {"tenant_id": "other"}).status_code == 422
    else:
        answer = http.post("/v1/score?tenant_id=other", headers=headers, json=body)
        assert answer.json()["decision_id"] == decision_id("acme", f"tx-{place}")


FORBIDDEN = (
    "id",
    "tenant_id",
    "decision_id",
    "score",
    "outcome",
    "decision",
    "status",
    "created_at",
    "assignee",
    "is_admin",
    "role",
    "is_fraud",
)


@pytest.mark.parametrize(("method", "path"), [one for one in CLOSED if "requestBody" in PATHS[one[1]][one[0]]])
def test_nobody_assigns_what_is_ours(stack: ApiStack, http: httpx2.Client, method: str, path: str) -> None:
    good: dict[str, Any] = {"rules": []} if "rules" in path else score_request("tx-mass").model_dump(mode="json", exclude_defaults=True)
    if path.endswith("rollback"):
        good = {}
    if path.endswith("batch"):
        good = {"transactions": [good]}
    for name in FORBIDDEN:
        answer = http.request(method, path.format(**ANYTHING), headers=bearer(stack) | {"If-Match": '"999"'}, json=good | {name: "1"})
        assert (answer.status_code, answer.json()["errors"]) == (422, [{"type": "extra_forbidden", "loc": ["body", "unknown"]}])


TOO_MUCH: dict[str, tuple[bytes, dict[str, str]]] = {
    "above the limit": (b" " * (512 * 1024 + 1), {}),
    "a gzip bomb": (gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"}),
    "200,000 deep": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", {}),
    "5,000 digits": (b'{"amount_minor":' + b"9" * 5_000 + b"}", {}),
    "10,000 items": (b'{"transactions":[' + b",".join([b"{}"] * 10_000) + b"]}", {}),
    "5,000 unknown names": (json.dumps({f"zebra{i}": i for i in range(5_000)}).encode(), {}),
    "a long number": (b'{"amount_minor":1e400}', {}),
}


@pytest.mark.parametrize("name", TOO_MUCH)
@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch", "/v1/rules/drafts"])
def test_too_much_is_refused_in_little(stack: ApiStack, http: httpx2.Client, name: str, path: str) -> None:
    content, extra = TOO_MUCH[name]
    answer = http.post(path, content=content, headers=bearer(stack) | {"Content-Type": "application/json"} | extra)
    assert answer.status_code in (400, 413, 422)
    assert len(answer.content) <= 2_048
    assert b"zebra" not in answer.content


def test_abuse_leaves_the_process_as_large_as_it_was(stack: ApiStack, http: httpx2.Client) -> None:
    process = psutil.Process(stack.api_pid)
    headers = bearer(stack) | {"Content-Type": "application/json"}

    def abuse() -> None:
        for content, extra in TOO_MUCH.values():
            http.post("/v1/score", content=content, headers=headers | extra)

    for _ in range(3):
        abuse()
    before = process.memory_info().rss
    for _ in range(20):
        abuse()
    assert process.memory_info().rss - before < 20 * 1024 * 1024


def test_a_length_that_lies_hurts_nobody(stack: ApiStack, http: httpx2.Client) -> None:
    token = bearer(stack)["Authorization"]
    host, _, port = stack.url.removeprefix("http://").partition(":")
    for length in (10, 10_000):
        with socket.create_connection((host, int(port)), timeout=5) as wire:
            head = (
                "POST /v1/score HTTP/1.1",
                "Host: x",
                f"Authorization: {token}",
                "Content-Type: application/json",
                f"Content-Length: {length}",
            )
            wire.sendall("\r\n".join((*head, "", '{"transaction_id":"lies"}')).encode())
            wire.settimeout(1)
            try:
                answer = wire.recv(4096)
            except TimeoutError:
                answer = b""  # it waits for the rest, as it should
            assert answer == b"" or b" 4" in answer.split(b"\r\n")[0]
    assert http.get("/health").status_code == 200


def test_a_thousand_idle_connections_leave_room_for_an_honest_caller(stack: ApiStack) -> None:
    host, _, port = stack.url.removeprefix("http://").partition(":")
    idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(500)]
    slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(500)]
    try:
        for wire in slow:
            wire.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        with Client(stack.url, token=stack.access.issue_token("acme", "honest", SERVICE)) as shop:
            for i in range(20):
                began_s = time.perf_counter()
                shop.score(score_request(f"honest-{i}"))
                assert time.perf_counter() - began_s < 1.0
    finally:
        for wire in (*idle, *slow):
            wire.close()


def test_text_in_a_path_reaches_no_log_line_of_its_own(stack: ApiStack, http: httpx2.Client) -> None:
    """Log forging: CR, LF and terminal codes in what a caller sends."""
    forged = "%0d%0a%7b%22event%22%3a%22forged%22%7d%1b%5b31m"
    http.get(f"/v1/decisions/{forged}", headers=bearer(stack) | {"X-Trace": "a"})
    http.delete(f"/v1/subjects/card/{forged}", headers=bearer(stack))
    lines = stack.log("api").read_text().splitlines()
    assert not any(line.startswith('{"event":"forged"') or "\x1b" in line for line in lines)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("role", [ADMIN, SERVICE])
def test_schemathesis_finds_nothing_with_every_check(stack: ApiStack, tmp_path: Path, role: Role, seed: int) -> None:
    """``FRAUDGUARD_SCHEMATHESIS_EXAMPLES`` sets how many examples an operation gets in each phase."""
    examples = os.environ.get("FRAUDGUARD_SCHEMATHESIS_EXAMPLES", "10")
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(Path(__file__).parents[1] / "schemathesis.toml")]
    command += ["run", f"{stack.url}/openapi.json", "--checks", "all", "--max-examples", examples, "--seed", str(seed), "--no-color"]
    token = stack.access.issue_token("default", "fuzz", role)
    done = subprocess.run(
        command, env={**os.environ, "FRAUDGUARD_TEST_TOKEN": token}, cwd=tmp_path, capture_output=True, text=True, timeout=540, check=False
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases is not None
    assert int(cases[1]) > 500
