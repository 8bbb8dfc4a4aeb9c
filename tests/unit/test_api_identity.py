from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm
from pydantic import ValidationError

from api.identity import Caller, Role, Unauthenticated, require
from api.keys import ApiKeys, KeyFile
from api.settings import ApiSettings
from api.tokens import KeySet, TokenVerifier
from tests.api_world import ISSUER, Issuer, attended, gated, settings

NOW_S = 1_700_000_000


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


class Clock:
    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(tmp_path: Path, issuer: Issuer, clock: Clock) -> TokenVerifier:
    return TokenVerifier(settings(tmp_path, issuer), KeySet(issuer.jwks()), {"gone"}.__contains__, clock)


def refused(verifier: TokenVerifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except Unauthenticated:
        return True
    return False


def test_a_good_token_names_its_caller_also_the_second_time(verifier: TokenVerifier, issuer: Issuer) -> None:
    token = issuer.token(now_s=NOW_S)
    expected = Caller("acme", "ann", Role.LEAD)
    assert [verifier.verify(token), verifier.verify(token)] == [expected, expected]


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({"exp": NOW_S - 1, "iat": NOW_S - 600}, True),
        ({"exp": NOW_S - 31, "iat": NOW_S - 600}, False),
        ({"iat": NOW_S + 29}, True),
        ({"iat": NOW_S + 31}, False),
        ({"nbf": NOW_S + 31}, False),
        ({"nbf": NOW_S - 5}, True),
        ({"exp": NOW_S + 3_600}, True),
        ({"exp": NOW_S + 3_601}, False),
        ({"exp": NOW_S + 86_400}, False),
        ({"exp": NOW_S - 700}, False),
        ({"exp": str(NOW_S + 600)}, False),
        ({"exp": True}, False),
        ({"exp": float("inf")}, False),
        ({"exp": None}, False),
        ({"exp": ...}, False),
        ({"iat": ...}, False),
        ({"iat": str(NOW_S)}, False),
        ({"nbf": "soon"}, False),
        ({"tenant_id": ["acme"]}, False),
        ({"tenant_id": 7}, False),
        ({"tenant_id": ""}, False),
        ({"tenant_id": " acme"}, False),
        ({"tenant_id": "acme|other"}, False),
        ({"tenant_id": "ac\0me"}, False),
        ({"tenant_id": ...}, False),
        ({"sub": ...}, False),
        ({"sub": ""}, False),
        ({"aud": "another"}, False),
        ({"aud": ["another", "fraudguard"]}, True),
        ({"aud": ...}, False),
        ({"iss": "https://other.test"}, False),
        ({"iss": ...}, False),
        ({"role": "root"}, False),
        ({"role": ["offline_access", "analyst"]}, True),
        ({"role": ...}, False),
        ({"role": {"admin": True}}, False),
    ],
    ids=str,
)
def test_claims_are_checked_with_their_types(verifier: TokenVerifier, issuer: Issuer, changed: dict[str, Any], accepted: bool) -> None:
    assert refused(verifier, issuer.token(now_s=NOW_S, **changed)) is not accepted


def forged(issuer: Issuer) -> dict[str, str]:
    """Tokens that somebody without the issuer's keys can make, and some that are no tokens."""
    good = issuer.token(now_s=NOW_S)
    head, body, signature = good.split(".")
    claims = issuer.claims(NOW_S)

    def unsigned(algorithm: Any) -> str:
        header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT", "kid": "ec-1"}).encode()).rstrip(b"=").decode()
        return f"{header}.{body}."

    stranger = ec.generate_private_key(ec.SECP256R1())
    public_pem = issuer.rsa_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def by_stranger(**headers: Any) -> str:
        return jwt.encode(claims, stranger, algorithm="ES256", headers={"kid": "ec-1", **headers})

    encoded = jwt.utils.base64url_encode
    hs_header = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa-1"}).encode()).decode()
    hs_input = f"{hs_header}.{body}"
    hs = f"{hs_input}.{encoded(hmac.digest(public_pem, hs_input.encode(), 'sha256')).decode()}"
    return {
        **{f"alg {algorithm!r}": unsigned(algorithm) for algorithm in ("none", "None", "NONE", "nOnE", "", None, "HS256")},
        "stripped signature": f"{head}.{body}.",
        "cut signature": good[:-4],
        "other body": f"{head}.{jwt.utils.base64url_encode(json.dumps(claims | {'role': 'admin'}).encode()).decode()}.{signature}",
        "HS256 with the public key": hs,
        "stranger's key": by_stranger(),
        "embedded key": by_stranger(jwk=ECAlgorithm.to_jwk(stranger.public_key(), as_dict=True)),
        "good signature, key by address": issuer.token(now_s=NOW_S, headers={"jku": "http://127.0.0.1:9/keys"}),
        "good signature, certificate": issuer.token(now_s=NOW_S, headers={"x5u": "http://127.0.0.1:9/cert"}),
        "critical extension": issuer.token(now_s=NOW_S, headers={"crit": ["b64"], "b64": True}),
        "kid traversal": issuer.token(now_s=NOW_S, headers={"kid": "../../../../dev/null"}),
        "kid SQL": issuer.token(now_s=NOW_S, headers={"kid": "x' UNION SELECT 'key"}),
        "kid URL": issuer.token(now_s=NOW_S, headers={"kid": "http://127.0.0.1:9/key"}),
        "kid of the other key": issuer.token(now_s=NOW_S, headers={"kid": "rsa-1"}),
        "no kid": jwt.encode(claims, issuer.ec_key, algorithm="ES256"),
        "8 KB header": issuer.token(now_s=NOW_S, headers={"pad": "a" * 8_192}),
        "PS256": jwt.encode(claims, issuer.rsa_key, algorithm="PS256", headers={"kid": "rsa-1"}),
        "RS512": jwt.encode(claims, issuer.rsa_key, algorithm="RS512", headers={"kid": "rsa-1"}),
        "empty": "",
        "two dots": "..",
        "text": "not a token",
        "not ASCII": "é.é.é",
    }


def test_no_forged_token_is_accepted(verifier: TokenVerifier, issuer: Issuer) -> None:
    tokens = forged(issuer)
    assert len(tokens) >= 25
    assert [name for name, token in tokens.items() if not refused(verifier, token)] == []


def test_an_rsa_token_of_the_issuer_is_accepted(verifier: TokenVerifier, issuer: Issuer) -> None:
    token = jwt.encode(issuer.claims(NOW_S), issuer.rsa_key, algorithm="RS256", headers={"kid": "rsa-1"})
    assert verifier.verify(token).tenant_id == "acme"


def test_a_token_seen_before_still_expires(verifier: TokenVerifier, issuer: Issuer, clock: Clock) -> None:
    token = issuer.token(now_s=NOW_S)
    verifier.verify(token)
    clock.now_s = NOW_S + 629
    assert not refused(verifier, token)
    clock.now_s = NOW_S + 630
    assert refused(verifier, token)


def test_a_token_seen_before_dies_with_its_key_and_survives_a_refresh_of_the_same_keys(
    tmp_path: Path, verifier: TokenVerifier, issuer: Issuer, clock: Clock
) -> None:
    token = issuer.token(now_s=NOW_S)
    verifier.verify(token)
    verifier.keys = KeySet(issuer.jwks())
    assert not refused(verifier, token)
    verifier.keys = KeySet({"keys": [key for key in issuer.jwks()["keys"] if key["kid"] != "ec-1"]})
    assert refused(verifier, token)
    revoked: set[str] = set()
    other = TokenVerifier(settings(tmp_path, issuer), KeySet(issuer.jwks()), revoked.__contains__, clock)
    other.verify(token)
    revoked.add("ec-1")
    assert refused(other, token)


def test_weak_foreign_and_encryption_keys_are_left_out(issuer: Issuer) -> None:
    good = issuer.jwks()["keys"][0]
    small = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"}
    document = {"keys": [small | {"kid": "small"}, symmetric, good | {"use": "enc", "kid": "enc"}, good | {"alg": "HS256", "kid": "mixed"}]}
    assert len(KeySet(document)) == 0


def test_keycloaks_roles_are_found_by_path(tmp_path: Path, issuer: Issuer, clock: Clock) -> None:
    verifier = TokenVerifier(settings(tmp_path, issuer, role_claim="realm_access.roles"), KeySet(issuer.jwks()), lambda _kid: False, clock)
    token = issuer.token(now_s=NOW_S, role=..., realm_access={"roles": ["uma_authorization", "analyst", "lead"]})
    assert verifier.verify(token).role is Role.LEAD


def test_an_api_key_is_known_by_its_hash_until_it_is_revoked(tmp_path: Path) -> None:
    file, now_s = KeyFile(tmp_path / "keys.json"), [0.0]
    key, text = file.create("acme", "checkout", Role.SERVICE)
    keys = ApiKeys(tmp_path / "keys.json", lambda: now_s[0])
    assert keys.verify(text).caller == Caller("acme", "checkout", Role.SERVICE)
    assert text.split("_")[2] not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    file.revoke(key.key_id)
    now_s[0] = 1.0
    with pytest.raises(Unauthenticated):
        keys.verify(text)


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"), lambda t: t.upper(), lambda t: t + "0", lambda _: "", lambda t: t[:20]]
)
def test_no_other_text_is_a_key(tmp_path: Path, change: Any) -> None:
    _, text = KeyFile(tmp_path / "keys.json").create("acme", "checkout", Role.SERVICE)
    with pytest.raises(Unauthenticated):
        ApiKeys(tmp_path / "keys.json").verify(change(text))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"keys": [{}], "revoked_kids": []}', '{"keys": [{"role": "root"}], "revoked_kids": []}']
)
def test_a_key_file_that_cannot_be_read_leaves_the_keys_as_they_were(tmp_path: Path, content: str) -> None:
    path, now_s = tmp_path / "keys.json", [0.0]
    _, text = KeyFile(path).create("acme", "checkout", Role.SERVICE)
    keys = ApiKeys(path, lambda: now_s[0])
    keys.verify(text)
    path.write_text(content)
    now_s[0] = 1.0
    assert keys.verify(text).subject == "checkout"
    path.unlink()
    now_s[0] = 2.0
    with pytest.raises(Unauthenticated):
        keys.verify(text)


def test_changes_by_several_hands_are_all_kept(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: KeyFile(tmp_path / "keys.json").create("acme", f"s{i}", Role.SERVICE)[0].key_id, range(24)))
    assert set(made) == set(KeyFile(tmp_path / "keys.json").read().keys)


def test_production_starts_only_with_real_secrets(tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="signing_secret"):
        settings(tmp_path, issuer, signing_secret="short")
    with pytest.raises(ValidationError, match="https"):
        settings(tmp_path, issuer, environment="production", jwks_file=None, jwks_url="http://issuer.test/keys")
    with pytest.raises(ValidationError, match="name the origins"):
        settings(tmp_path, issuer, cors_origins=("*",))
    monkeypatch.setenv("FRAUDGUARD_API_ISSUER", ISSUER)
    with pytest.raises(ValidationError) as missing:
        ApiSettings()  # type: ignore[call-arg]  # from the environment
    assert {error["loc"][0] for error in missing.value.errors()} >= {"signing_secret", "redis_url", "bootstrap_servers", "ip_hash_key_file"}


@pytest.fixture
def client(tmp_path: Path, issuer: Issuer) -> Iterator[Any]:
    """An application with one open and two closed operations, behind the real gate."""
    app = gated(settings(tmp_path, issuer))

    @app.get("/health")
    def health() -> str:
        return "up"

    @app.get("/who")
    def who(caller: Annotated[Caller, require()]) -> str:
        return f"{caller.tenant_id}/{caller.subject}/{caller.role}"

    @app.get("/admin")
    def admin(caller: Annotated[Caller, require(Role.ADMIN)]) -> str:
        return caller.subject

    with attended(app) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_way_of_being_nobody_gets_the_same_answer(client: Any, issuer: Issuer) -> None:
    import time

    now = {name: token for name, token in forged(Issuer(issuer.ec_key, issuer.rsa_key)).items() if token.isascii()}
    tries = [bearer(token) for token in now.values()]
    tries += [{}, {"Authorization": "Basic YTpi"}, {"X-API-Key": "fgk_x_y"}, {"X-API-Key": ""}]
    tries.append(bearer(issuer.token()) | {"X-API-Key": "fgk_0_0"})
    answers = [client.get("/who", headers=one) for one in tries]
    answers.append(client.get("/who", headers=[("Authorization", f"Bearer {issuer.token()}")] * 2))
    answers.append(client.get("/no-such-path"))
    assert {one.status_code for one in answers} == {401}
    assert len({one.content for one in answers}) == 1
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert answers[0].headers["www-authenticate"] == "Bearer"
    began_s = time.perf_counter()
    client.get("/who", headers=tries[0])
    assert time.perf_counter() - began_s < 0.5


def test_the_tenant_comes_from_the_token_alone(client: Any, issuer: Issuer) -> None:
    headers = bearer(issuer.token()) | {"tenant-id": "other", "X-Tenant-Id": "other"}
    assert client.get("/who?tenant_id=other", headers=headers).json() == "acme/ann/lead"


def test_a_role_opens_what_it_is_for(client: Any, issuer: Issuer) -> None:
    assert client.get("/admin", headers=bearer(issuer.token())).status_code == 403
    assert client.get("/admin", headers=bearer(issuer.token(role="admin"))).json() == "ann"


def test_health_answers_anybody(client: Any) -> None:
    assert client.get("/health").json() == "up"


def test_a_key_that_must_sign_is_nobody_without_a_signature(client: Any, tmp_path: Path) -> None:
    import time

    from api.signing import secret_of, sign
    from tests.api_world import SECRET

    key, text = KeyFile(tmp_path / "keys.json").create("acme", "checkout", Role.SERVICE, must_sign=True)
    assert client.get("/who", headers={"X-API-Key": text}).status_code == 401
    at = int(time.time())

    def signed(time_s: int, target: str = "/who?a=1") -> dict[str, str]:
        signature = sign(secret_of(SECRET, key.key_id), "GET", target, time_s, b"")
        return {"X-API-Key": text, "X-Signature": signature, "X-Signature-Time": str(time_s)}

    assert client.get("/who?a=1", headers=signed(at)).json() == "acme/checkout/service"
    assert client.get("/who?a=1", headers=signed(at - 301)).status_code == 401
    assert client.get("/who?a=2", headers=signed(at)).status_code == 401
    assert sha256(text.encode()).hexdigest() not in (tmp_path / "keys.json").read_text()  # the secret alone is hashed
