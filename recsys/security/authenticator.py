"""Who calls: from what the caller sent to a principal, in microseconds and from memory.

Every quarter of a second a request looks whether the file of keys has changed: one ``stat``. A file
that cannot be read leaves the keys as they were, and is logged: callers that are known stay known.
A file that is gone has no keys.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from recsys.clock import Clock, now_ms
from recsys.errors import RecsysError
from recsys.security.key_file import KeyFile
from recsys.security.keys import PREFIX, ApiKey, KeyRecord, digest, parse_key
from recsys.security.scopes import Principal

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25
"""Between two looks at the file of keys."""
_NOT_LOOKED = (-1, -1)
_NOBODY = KeyRecord(
    key_id="", sha256=digest(ApiKey("", "")), scopes=("serve",), owner="", created_ms=0
)
"""Compared with when there is no such key: a wrong id takes as long as a wrong secret."""


class AccessError(RecsysError):
    """A caller is not let in.

    Attributes:
        reason: In one word, for counters: ``"missing"``, ``"malformed"``, ``"unknown"``,
            ``"expired"``, ``"revoked"`` or ``"token"``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TokenVerifier(Protocol):
    """Knows tokens of another issuer."""

    def verify(self, token: str) -> Principal:
        """Give who a token stands for. Raises AccessError."""


class KeyRing:
    """The keys as the file has them."""

    def __init__(
        self, file: KeyFile, *, clock: Clock = now_ms, elapsed_s: Callable[[], float] = monotonic
    ) -> None:
        self._file = file
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._records: dict[str, tuple[KeyRecord, Principal]] = {}
        self._seen: tuple[int, int] | None = _NOT_LOOKED
        self._due_s = 0.0
        self._trouble = ""

    def __len__(self) -> int:
        """Give how many keys are good now."""
        self._follow()
        now = self._clock()
        return sum(record.state(now) == "valid" for record, _ in self._records.values())

    def verify(self, key: ApiKey) -> Principal:
        """Give who holds the key.

        Raises:
            AccessError: ``unknown``, ``expired`` or ``revoked``. The last two are said only to who
                has the whole key.
        """
        self._follow()
        found = self._records.get(key.key_id)
        if found is None:
            _NOBODY.fits(key)
            raise _unknown()
        record, principal = found
        if not record.fits(key):
            raise _unknown()
        state = record.state(self._clock())
        if state != "valid":
            raise AccessError(
                f"the API key {key.key_id} is {state}; ask its owner ({record.owner}) for another",
                reason=state,
            )
        return principal

    def _follow(self) -> None:
        now_s = self._elapsed_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_INTERVAL_S
        try:
            seen = self._stamp()
            if seen == self._seen:
                return
            records = self._file.read()
        except (RecsysError, OSError) as error:
            if self._seen == _NOT_LOOKED:
                raise
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("the API keys stay as they were: %s", error)
            return  # looked at again at the next turn
        self._records = {record.key_id: (record, record.principal()) for record in records}
        self._seen = seen
        self._trouble = ""

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._file.path)  # noqa: PTH116  four times a second
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino


class Authenticator:
    """Takes keys and, where there is a verifier, tokens."""

    def __init__(self, keys: KeyRing, tokens: TokenVerifier | None = None) -> None:
        self._keys = keys
        self._tokens = tokens

    def authenticate(self, authorization: str | None, api_key: str | None) -> Principal:
        """Give who calls.

        Args:
            authorization: The header of that name: ``Bearer`` and a key or token.
            api_key: The header ``X-API-Key``; wins over the other.

        Raises:
            AccessError: no message of it shows what was sent.
        """
        if api_key is None:
            if not authorization:
                raise AccessError(
                    "wanted an API key in the header `Authorization: Bearer …` or `X-API-Key`, "
                    "found none; `recsys keys create` makes one",
                    reason="missing",
                )
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise AccessError(
                    "Authorization: wanted the scheme Bearer, found another", reason="malformed"
                )
            api_key = credentials.strip()
        key = parse_key(api_key)
        if key is not None:
            return self._keys.verify(key)
        if self._tokens is not None and not api_key.startswith(PREFIX):
            return self._tokens.verify(api_key)
        raise AccessError(
            "wanted an API key (rsk_…), found something else; was it cut short?",
            reason="malformed",
        )


def _unknown() -> AccessError:
    return AccessError("the API key is not known here", reason="unknown")
