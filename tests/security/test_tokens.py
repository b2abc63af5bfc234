"""Tokens: who signed them, for whom, until when; and every known way around that."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigurationError
from recsys.security.authenticator import AccessError, Authenticator, KeyRing
from recsys.security.key_file import KeyFile
from recsys.security.signing_keys import KeysOfAddress, KeysOfFile, parse_jwks
from recsys.security.tokens import JwtVerifier, TokenConfig

NOW_S = 1_800_000_000.0
CONFIG = TokenConfig(
    issuer="https://login.example", audience="recsys", algorithms=("RS256", "ES256", "EdDSA")
)
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SIGNERS: dict[str, tuple[Any, Any]] = {
    "RS256": (RSA, jwt.algorithms.RSAAlgorithm),
    "ES256": (EC, jwt.algorithms.ECAlgorithm),
    "EdDSA": (ED, jwt.algorithms.OKPAlgorithm),
}


def jwk(algorithm: str, kid: str, **more: Any) -> dict[str, Any]:
    key, kind = SIGNERS[algorithm]
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"} | more


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    all_claims = {
        "iss": CONFIG.issuer, "aud": "recsys", "sub": "shop", "exp": now + 300, "iat": now,
        "scope": "openid recsys:serve recsys:ingest",
    } | changes  # fmt: skip
    return {name: value for name, value in all_claims.items() if value is not None}


def signed(algorithm: str = "RS256", kid: str | None = None, **changes: Any) -> str:
    key, _ = SIGNERS[algorithm]
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid or algorithm})


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(name, name) for name in SIGNERS]}))
    return path


@pytest.fixture
def verifier(jwks: Path) -> JwtVerifier:
    return JwtVerifier(CONFIG, KeysOfFile(jwks))


def refused(verifier: JwtVerifier, token: str) -> str:
    with pytest.raises(AccessError) as error:
        verifier.verify(token)
    assert not token or token not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_token_of_the_issuer_lets_in(verifier: JwtVerifier, algorithm: str) -> None:
    caller = verifier.verify(signed(algorithm))
    assert (caller.name, caller.scopes) == ("jwt:shop", {"serve", "ingest"})


def test_scopes_may_be_a_list_and_those_of_others_do_not_count(verifier: JwtVerifier) -> None:
    assert verifier.verify(signed(scope=["recsys:admin", "x"])).scopes == {"admin"}
    assert verifier.verify(signed(scope="admin serve other:admin")).scopes == frozenset()
    assert verifier.verify(signed(scope=None)).scopes == frozenset()


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"iss": None}, {"aud": "billing"}, {"aud": None},
        {"exp": None}, {"sub": None}, {"sub": ""}, {"sub": "a" * 129}, {"sub": "a\nb"},
        {"scope": 7}, {"scope": [7]}, {"exp": "soon"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_claims_are_refused(verifier: JwtVerifier, changes: dict[str, Any]) -> None:
    assert refused(verifier, signed(**changes)) == "token"


def test_token_of_later_is_refused(verifier: JwtVerifier) -> None:
    assert refused(verifier, signed(nbf=int(time.time()) + 600)) == "token"


def test_leeway_is_for_clocks_and_no_longer(verifier: JwtVerifier) -> None:
    now = int(time.time())
    verifier.verify(signed(exp=now - 20))
    assert refused(verifier, signed(exp=now - 40)) == "expired"


def test_known_token_is_forgotten_when_it_expires(jwks: Path) -> None:
    now = [time.time()]
    verifier = JwtVerifier(CONFIG, KeysOfFile(jwks), clock_s=lambda: now[0])
    token = signed(exp=int(now[0]) - 25)
    assert verifier.verify(token) is verifier.verify(token)  # the second from memory
    now[0] += 10
    # PyJWT's own clock is the machine's, so it would still be let in there; it is looked at anew.
    assert verifier.verify(token) is not None
    assert len(verifier._known) == 1


def encode(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_unsigned_token_is_refused(verifier: JwtVerifier, name: str) -> None:
    head = {"alg": name, "typ": "JWT", "kid": "RS256"}
    assert refused(verifier, f"{encode(head)}.{encode(claims())}.") == "token"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_public_key_as_a_shared_secret_is_refused(verifier: JwtVerifier, algorithm: str) -> None:
    public = RSA.public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = f"{encode({'alg': algorithm, 'kid': 'RS256'})}.{encode(claims())}"
    kind = getattr(hashlib, f"sha{algorithm[2:]}")
    for secret in (pem, pem.strip(), json.dumps(jwk("RS256", "RS256")).encode()):
        mac = base64.urlsafe_b64encode(hmac.new(secret, body.encode(), kind).digest()).decode()
        assert refused(verifier, f"{body}.{mac.rstrip('=')}") == "token"


def test_key_is_good_for_its_own_algorithm_alone(verifier: JwtVerifier) -> None:
    for algorithm in ("RS384", "PS256"):
        token = jwt.encode(claims(), RSA, algorithm, headers={"kid": "RS256"})
        assert refused(verifier, token) == "token"
    assert refused(verifier, signed("ES256", kid="RS256")) == "token"


def test_key_inside_the_token_is_not_believed(verifier: JwtVerifier) -> None:
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    embedded = jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key(), as_dict=True)
    head = {"kid": "RS256", "jwk": embedded, "jku": "https://evil.example/jwks.json"}
    assert refused(verifier, jwt.encode(claims(), own, "RS256", headers=head)) == "token"
    assert refused(verifier, jwt.encode(claims(), own, "RS256", headers={"kid": "mine"})) == "token"
    assert refused(verifier, signed() + "x" * 9_000) == "malformed"


def test_extension_that_must_be_understood_is_refused(verifier: JwtVerifier) -> None:
    head = {"kid": "RS256", "crit": ["exp2"], "exp2": 1}
    assert refused(verifier, jwt.encode(claims(), RSA, "RS256", headers=head)) == "token"


def test_changed_payload_is_refused(verifier: JwtVerifier) -> None:
    head, _, signature = signed(scope="recsys:serve").split(".")
    assert (
        refused(verifier, f"{head}.{encode(claims(scope='recsys:admin'))}.{signature}") == "token"
    )


@pytest.mark.parametrize("algorithms", [(), ("HS256",), ("none",), ("RS256", "HS512")])
def test_shared_secrets_cannot_be_allowed(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="proves nothing"):
        TokenConfig(issuer="i", audience="a", algorithms=algorithms)


def test_secrets_and_encryption_keys_in_the_set_are_left_out() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"}
    usable = parse_jwks(
        json.dumps({"keys": [secret, jwk("ES256", "e"), jwk("RS256", "x", use="enc")]}).encode()
    )
    assert set(usable) == {"e"}
    for document in (b"", b"[]", b'{"keys": 1}', json.dumps({"keys": [secret]}).encode()):
        with pytest.raises(ConfigurationError, match="RECSYS_JWT_JWKS"):
            parse_jwks(document)


def test_rotation_in_the_file_takes_and_gives(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.security.signing_keys._LOOK_INTERVAL_S", 0.0)
    verifier = JwtVerifier(CONFIG, KeysOfFile(jwks))
    old, new = signed("RS256"), signed("ES256", kid="next")
    verifier.verify(old)
    assert refused(verifier, new) == "token"
    jwks.write_text(json.dumps({"keys": [jwk("ES256", "next")]}))
    assert verifier.verify(new).name == "jwt:shop"
    assert refused(verifier, old) == "token"  # remembered, and the key is gone
    jwks.write_text("{")
    assert verifier.verify(signed("ES256", kid="next")).name == "jwt:shop"


@pytest.fixture
def issuer() -> Iterator[tuple[str, dict[str, Any]]]:
    served: dict[str, Any] = {"keys": [jwk("RS256", "one")]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(served).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/jwks.json", served
    server.shutdown()
    thread.join()
    server.server_close()


def test_unknown_key_has_the_address_read_again_in_the_background(
    issuer: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.security.signing_keys._SOONEST_S", 0.1)
    url, served = issuer
    keys = KeysOfAddress(url)
    verifier = JwtVerifier(CONFIG, keys)

    def let_in(token: str) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                verifier.verify(token)
                return True
            except AccessError:
                time.sleep(0.02)
        return False

    try:
        assert let_in(signed(kid="one"))
        served["keys"] = [jwk("RS256", "one"), jwk("EdDSA", "two")]
        assert let_in(signed("EdDSA", kid="two"))
    finally:
        keys.close()


@pytest.mark.parametrize("url", ["http://issuer.example/keys", "ftp://issuer.example/keys"])
def test_keys_are_not_read_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        KeysOfAddress(url)


def test_gate_takes_keys_and_tokens(jwks: Path, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key = file.create(("admin",), owner="ops")
    door = Authenticator(KeyRing(file), JwtVerifier(CONFIG, KeysOfFile(jwks)))
    assert door.authenticate(f"Bearer {signed()}", None).name == "jwt:shop"
    assert door.authenticate(f"Bearer {key.text}", None).name == f"key:{key.key_id}"
    with pytest.raises(AccessError):
        door.authenticate("Bearer rsk_looks.like.both", None)


_VERIFIER_KEYS = parse_jwks(json.dumps({"keys": [jwk(name, name) for name in SIGNERS]}).encode())


class _Fixed:
    generation = 0

    def get(self, kid: str | None) -> jwt.PyJWK | None:
        return _VERIFIER_KEYS.get(kid) if isinstance(kid, str) else None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    st.text(max_size=200)
    | st.tuples(_JSON, _JSON, st.binary(max_size=64)).map(
        lambda parts: (
            f"{encode(parts[0])}.{encode(parts[1])}."
            f"{base64.urlsafe_b64encode(parts[2]).rstrip(b'=').decode()}"
        )
    )
    | st.tuples(st.sampled_from(list(SIGNERS)), _JSON).map(
        lambda parts: f"{encode({'alg': parts[0], 'kid': parts[0]})}.{encode(parts[1])}.AAAA"
    )
)
def test_any_text_is_refused_and_breaks_nothing(token: str) -> None:
    with pytest.raises(AccessError):
        JwtVerifier(CONFIG, _Fixed()).verify(token)
