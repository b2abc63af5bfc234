"""An issuer's public keys out of a file or from an https address, followed while they change."""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import jwt

from recsys.errors import ConfigurationError
from recsys.security.listening import is_loopback

logger = logging.getLogger(__name__)

_MAX_BYTES = 1_000_000
_LOOK_INTERVAL_S = 1.0
"""Between two looks at a file."""
_REFRESH_S = 300.0
"""Between two readings of an address. Issuers publish a key well before they sign with it."""
_SOONEST_S = 5.0
"""Between two readings because of an unknown key: strangers can send as many as they like."""
_TIMEOUT_S = 5.0


class _Keys:
    def __init__(self) -> None:
        self.generation = 0
        self._by_id: dict[str | None, jwt.PyJWK] = {}

    def _take(self, document: bytes) -> None:
        by_id = parse_jwks(document)
        if {kid: key._jwk_data for kid, key in by_id.items()} != {
            kid: key._jwk_data for kid, key in self._by_id.items()
        }:
            self._by_id = by_id
            self.generation += 1

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._by_id.values())) if len(self._by_id) == 1 else None
        return self._by_id.get(kid) if isinstance(kid, str) else None


class KeysOfFile(_Keys):
    """Keys out of a file; a change is seen within a second, by the request that comes then."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ConfigurationError when that fails."""
        super().__init__()
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._due_s = 0.0
        self._look()

    def get(self, kid: str | None) -> jwt.PyJWK | None:
        """See ``SigningKeys``."""
        if monotonic() >= self._due_s:
            try:
                self._look()
            except ConfigurationError as error:
                logger.error("the signing keys stay as they were: %s", error)
        return self._find(kid)

    def _look(self) -> None:
        self._due_s = monotonic() + _LOOK_INTERVAL_S
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            document = self._path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"RECSYS_JWT_JWKS: wanted a file of signing keys at {self._path}, found: "
                f"{error.strerror}"
            ) from error
        self._take(document)


class KeysOfAddress(_Keys):
    """Keys from an address, read by a thread: no request waits for another server."""

    def __init__(self, url: str) -> None:
        """Begin to read. Until it succeeds no token is good.

        Raises:
            ConfigurationError: when the address is not https (loopback may be http).
        """
        super().__init__()
        parts = urlsplit(url)
        if parts.scheme != "https" and not (
            parts.scheme == "http" and is_loopback(parts.hostname or "")
        ):
            raise ConfigurationError(
                "RECSYS_JWT_JWKS: wanted a file or an https address, found the scheme "
                f"{parts.scheme}"
            )
        self._url = url
        self._shown = f"{parts.scheme}://{parts.hostname}{parts.path}"
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._wanted = threading.Event()
        self._read_s = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="signing keys", daemon=True)
        self._thread.start()

    def get(self, kid: str | None) -> jwt.PyJWK | None:
        """See ``SigningKeys``; an unknown id has the keys read anew, in the background."""
        key = self._find(kid)
        if key is None:
            self._wanted.set()
        return key

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._wanted.set()
        self._thread.join(_TIMEOUT_S)

    def _follow(self) -> None:
        while not self._closed:
            try:
                with self._opener.open(self._url, timeout=_TIMEOUT_S) as answer:
                    self._take(answer.read(_MAX_BYTES + 1))
            except (OSError, ValueError, ConfigurationError) as error:
                logger.warning("the signing keys at %s cannot be read: %s", self._shown, error)
            self._read_s = monotonic()
            self._wanted.wait(_REFRESH_S if self.generation else _SOONEST_S)
            while not self._closed and monotonic() - self._read_s < _SOONEST_S:
                threading.Event().wait(0.05)
            self._wanted.clear()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Following one could lead to plain http."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def open_signing_keys(where: str) -> KeysOfFile | KeysOfAddress:
    """Give the keys at a path or an address."""
    return KeysOfAddress(where) if "://" in where else KeysOfFile(Path(where))


def parse_jwks(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """Give the public signing keys of a JWK set by id; others in it are left out.

    Raises:
        ConfigurationError: when it is no such set, or none of its keys can be used.
    """
    try:
        listed = json.loads(document[: _MAX_BYTES + 1])["keys"]
        usable = [
            jwk
            for jwk in listed
            if jwk.get("kty") in ("RSA", "EC", "OKP") and jwk.get("use", "sig") == "sig"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            'RECSYS_JWT_JWKS: wanted a JWK set ({"keys": [...]}), found something else'
        ) from error
    keys: dict[str | None, jwt.PyJWK] = {}
    for jwk in usable:
        try:
            # Of a private key that was published by mistake nothing is kept but its public half.
            public = {name: jwk[name] for name in _PUBLIC if name in jwk}
            keys[jwk.get("kid")] = jwt.PyJWK(public)
        except (jwt.PyJWTError, ValueError, TypeError):
            logger.warning("a signing key of an unknown kind is left out")
    if not keys:
        raise ConfigurationError(
            f"RECSYS_JWT_JWKS: wanted RSA, EC or Ed25519 keys for signatures, found none among "
            f"{len(listed)}"
        )
    return keys


_PUBLIC = ("kty", "kid", "use", "alg", "crv", "x", "y", "n", "e")
