"""Tokens of another issuer (JWT, RFC 7519), signed with keys it publishes (JWKS, RFC 7517).

Only signatures with a private key are taken: with a shared secret everyone who can check a token
can make one. A key is bound to one algorithm when it is read, and a token must name that one, so
neither ``none`` nor a public key passed off as a secret gets anywhere (RFC 8725, sections 3.1 and
3.2). Verifying costs a fifth of a millisecond, so a token that was good is remembered, by its hash,
for a minute at most.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import Any, Protocol

import jwt

from recsys.errors import ConfigurationError
from recsys.security.authenticator import AccessError
from recsys.security.scopes import SCOPES, Principal, Scope

logger = logging.getLogger(__name__)

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""What can be allowed."""
_MAX_TOKEN_CHARACTERS = 8_192
_MAX_SUBJECT_CHARACTERS = 128
_REMEMBERED = 10_000
"""Tokens; about 400 bytes each."""
_REMEMBERED_S = 60.0
"""Besides what reading the keys takes: how long a key the issuer took back still counts."""


@dataclass(frozen=True, kw_only=True)
class TokenConfig:
    """Which tokens are taken."""

    issuer: str
    """Exactly the claim ``iss``."""
    audience: str
    """Must be among the claim ``aud``: a token made for another service is none for us."""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    scope_claim: str = "scope"
    """A text of scopes with spaces between (RFC 8693, section 4.2), or a list."""
    scope_prefix: str = "recsys:"
    """Scopes of ours begin with it: ``recsys:serve``. Others are not looked at."""
    leeway_s: float = 30.0
    """How far the issuer's clock may be from ours."""

    def __post_init__(self) -> None:
        wrong = [name for name in self.algorithms if name not in ALGORITHMS]
        if wrong or not self.algorithms:
            raise ConfigurationError(
                f"RECSYS_JWT_ALGORITHMS: wanted some of {', '.join(ALGORITHMS)}, found "
                f"{', '.join(wrong) or 'none'}; a shared secret (HS256) or none proves nothing"
            )


class SigningKeys(Protocol):
    """The issuer's keys as they are now."""

    generation: int
    """Changes with them."""

    def get(self, kid: str | None) -> jwt.PyJWK | None:
        """Give the key of that id; without an id the only key there is."""


class JwtVerifier:
    """Tells who a token stands for. Belongs to one thread."""

    def __init__(
        self, config: TokenConfig, keys: SigningKeys, *, clock_s: Callable[[], float] = time
    ) -> None:
        self._config = config
        self._keys = keys
        self._clock_s = clock_s
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._generation = keys.generation

    def verify(self, token: str) -> Principal:
        """Give who a token stands for.

        Raises:
            AccessError: when it is not signed by the issuer, for us, now.
        """
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise AccessError(
                f"wanted a token of at most {_MAX_TOKEN_CHARACTERS} characters, found {len(token)}",
                reason="malformed",
            )
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        now_s = self._clock_s()
        known = self._known.get(digest)
        if known is not None and now_s < known[1] and self._generation == self._keys.generation:
            return known[0]
        claims = self._claims(token)
        if self._generation != self._keys.generation:
            self._known.clear()
            self._generation = self._keys.generation
        caller = self._principal(claims)
        good_until_s = min(float(claims["exp"]) + self._config.leeway_s, now_s + _REMEMBERED_S)
        self._known[digest] = (caller, good_until_s)
        self._known.move_to_end(digest)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return caller

    def _claims(self, token: str) -> Mapping[str, Any]:
        config = self._config
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(kid)
            if key is None:
                raise AccessError(
                    "the token is signed with a key its issuer has not published; new ones are "
                    "read within seconds",
                    reason="token",
                )
            claims: dict[str, Any] = jwt.decode(
                token,
                key=key,
                algorithms=config.algorithms,
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway_s,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.ExpiredSignatureError as error:
            raise AccessError("the token is expired", reason="expired") from error
        # PyJWT lets a few of Python's own through on texts that are far from being a token.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise AccessError(
                f"the token is not good: {type(error).__name__}", reason="token"
            ) from error
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject = claims["sub"]
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= _MAX_SUBJECT_CHARACTERS
            or not subject.isprintable()
        ):
            raise AccessError(
                f"the token's sub: wanted 1 to {_MAX_SUBJECT_CHARACTERS} printable characters",
                reason="token",
            )
        given = claims.get(self._config.scope_claim, "")
        names = given.split() if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise AccessError(
                f"the token's {self._config.scope_claim}: wanted a text or a list of texts",
                reason="token",
            )
        prefix = self._config.scope_prefix
        scopes: frozenset[Scope] = frozenset(s for s in SCOPES if f"{prefix}{s}" in names)
        return Principal(name=f"jwt:{subject}", scopes=scopes)
