"""An API key: what the caller holds, and the little that is kept of it.

A key reads ``rsk_<id>_<secret>``. The id, 12 characters, is no secret: it finds the record without
trying them all and stands in logs. The secret is 256 random bits. At rest there is its SHA-256.

Why no slow hash. argon2, scrypt and bcrypt make each guess at a *password* dear, because people
choose among few. Nobody guesses one of 2**256: at 10**12 tries a second the sun goes out first. A
slow hash would only spend tens of milliseconds of our CPU on each request, and give whoever sends
wrong keys a lever. The id is hashed with the secret, so that a record's hash fits no other id.

Source: NIST SP 800-63B, section 5.1.2.2 (look-up secret verifiers): from 112 bits of entropy on an
approved one-way function, below that a salt and a password hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from recsys.security.scopes import Principal, Scope

PREFIX = "rsk_"
"""Lets a secret scanner, and our own redaction, find a key in a text."""
_ID_BYTES = 6
_SECRET_BYTES = 32
_is_key = re.compile(r"rsk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})").fullmatch


class ApiKey(NamedTuple):
    """A key as its holder has it."""

    key_id: str
    text: str
    """The whole of it: a secret."""


class KeyRecord(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str
    sha256: str
    """Of the whole key, hexadecimal."""
    scopes: tuple[Scope, ...] = Field(min_length=1)
    owner: str
    """Who to ask about it."""
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    rate_per_s: float | None = Field(None, gt=0)
    burst: int | None = Field(None, ge=1)

    def principal(self) -> Principal:
        """Give the caller this key stands for."""
        return Principal(
            name=f"key:{self.key_id}",
            scopes=frozenset(self.scopes),
            rate_per_s=self.rate_per_s,
            burst=self.burst,
        )

    def fits(self, key: ApiKey) -> bool:
        """Say whether the key is the one this was made of, in the same time for any other."""
        return hmac.compare_digest(self.sha256, digest(key))

    def state(self, now_ms: int) -> str:
        """Give ``revoked``, ``expired`` or ``valid``."""
        if self.revoked_ms is not None and self.revoked_ms <= now_ms:
            return "revoked"
        if self.expires_ms is not None and self.expires_ms <= now_ms:
            return "expired"
        return "valid"


def make_key() -> ApiKey:
    """Draw a new key."""
    key_id = secrets.token_hex(_ID_BYTES)
    return ApiKey(key_id, f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}")


def parse_key(text: str) -> ApiKey | None:
    """Give the key a text is, or ``None`` when it is none."""
    found = _is_key(text)
    return ApiKey(found[1], text) if found else None


def digest(key: ApiKey) -> str:
    """Give what is kept of the secret."""
    return hashlib.sha256(key.text.encode()).hexdigest()
