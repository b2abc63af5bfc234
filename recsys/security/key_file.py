"""Where keys rest: one file under the state folder, replaced as a whole.

A file and not Redis: an API goes on knowing its callers when Redis is away, and a fresh one can
start then. It is what the live bundle's pointer is, followed the same way, so a change reaches
every process that sees the folder within a quarter of a second. Nobody but its owner may read it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from recsys.clock import Clock, now_ms
from recsys.errors import ConfigurationError, InputError
from recsys.events.durable_files import make_directory, write_durably
from recsys.security.keys import ApiKey, KeyRecord, digest, make_key
from recsys.security.scopes import Scope


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    keys: tuple[KeyRecord, ...] = ()


class KeyFile:
    """Reads and changes the records. Several may change it at once; one waits for the other."""

    def __init__(self, path: Path, *, clock: Clock = now_ms) -> None:
        self.path = path
        self._clock = clock

    def read(self) -> tuple[KeyRecord, ...]:
        """Give all records, oldest first; none when there is no file.

        Raises:
            ConfigurationError: when it cannot be read or is not what this code writes.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(
                f"wanted to read the API keys at {self.path}, found: {error.strerror}"
            ) from error
        try:
            return _Keys.model_validate_json(content).keys
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise ConfigurationError(
                f"wanted the API keys that `recsys keys` wrote at {self.path}, found "
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}; put back a copy, or move it "
                "away and create the keys anew"
            ) from error

    def create(
        self,
        scopes: tuple[Scope, ...],
        *,
        owner: str,
        expires_ms: int | None = None,
        rate_per_s: float | None = None,
        burst: int | None = None,
    ) -> ApiKey:
        """Add a key and give it: it cannot be had again."""
        now = self._clock()
        if expires_ms is not None and expires_ms <= now:
            raise InputError("expires: wanted a time to come, found one that is past")
        key = make_key()
        record = KeyRecord(
            key_id=key.key_id,
            sha256=digest(key),
            scopes=scopes,
            owner=owner,
            created_ms=now,
            expires_ms=expires_ms,
            rate_per_s=rate_per_s,
            burst=burst,
        )
        with self._changing() as write:
            write((*self.read(), record))
        return key

    def revoke(self, key_id: str) -> KeyRecord:
        """Make a key worth nothing from now on.

        Raises:
            InputError: when there is no such key.
        """
        with self._changing() as write:
            records = self.read()
            found = _find(records, key_id)
            if found.revoked_ms is not None:
                return found
            gone = found.model_copy(update={"revoked_ms": self._clock()})
            write(tuple(gone if record is found else record for record in records))
        return gone

    def rotate(self, key_id: str, *, grace_ms: int) -> ApiKey:
        """Give a new key with what the old one may, for the time it had; the old one ends after.

        Args:
            key_id: The old key.
            grace_ms: How long both are good, so that callers can be changed one by one.

        Raises:
            InputError: when there is no such key or it is good no more.
        """
        now = self._clock()
        key = make_key()
        with self._changing() as write:
            records = self.read()
            old = _find(records, key_id)
            if (state := old.state(now)) != "valid":
                raise InputError(
                    f"{key_id}: wanted a key that is good, found it {state}; create another"
                )
            life = old.expires_ms - old.created_ms if old.expires_ms is not None else None
            new = old.model_copy(
                update={
                    "key_id": key.key_id,
                    "sha256": digest(key),
                    "created_ms": now,
                    "expires_ms": now + life if life is not None else None,
                }
            )
            ends = now + grace_ms if old.expires_ms is None else min(old.expires_ms, now + grace_ms)
            ending = old.model_copy(update={"expires_ms": ends})
            write((*(ending if record is old else record for record in records), new))
        return key

    @contextmanager
    def _changing(self) -> Iterator[Callable[[tuple[KeyRecord, ...]], None]]:
        make_directory(self.path.parent)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._write

    def _write(self, records: tuple[KeyRecord, ...]) -> None:
        before = os.umask(0o077)
        try:
            write_durably(self.path, _Keys(keys=records).model_dump_json(indent=1).encode())
        finally:
            os.umask(before)


def _find(records: tuple[KeyRecord, ...], key_id: str) -> KeyRecord:
    for record in records:
        if record.key_id == key_id:
            return record
    known = ", ".join(record.key_id for record in records) or "none"
    raise InputError(f"wanted the id of a key, found {key_id!r} (keys: {known})")
