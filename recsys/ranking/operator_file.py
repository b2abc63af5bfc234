"""The operator's rules as a file that may change under a running process.

Each API process looks at the file once a second. A new version is read whole and then takes the
place of the old one between two requests, so no answer mixes two. A version that cannot be read is
refused with a line in the log, and the one before it stays in force; a file that is gone means no
rules. ``install`` puts a checked file in place by rename: no process ever reads half of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory, write_durably
from recsys.ranking.operator_rules import NO_RULES, OperatorRules, read_operator_rules
from recsys.ranking.rules_history import keep_version
from recsys.telemetry import RULES_READ

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 4_000_000
_NOT_LOOKED = (-1, -1, -1)


class OperatorFile:
    """Follows one file. ``current`` is read once by each request."""

    def __init__(self, path: Path, *, history: Path | None = None, interval_s: float = 1.0) -> None:
        """Read ``path`` now; ``interval_s`` lies between two looks at it.

        ``history``: folder in which each version that was in force is kept.
        """
        self.path = path
        self._history = history
        self.current: OperatorRules = NO_RULES
        self._interval_s = interval_s
        self._seen: tuple[int, int, int] | None = _NOT_LOOKED
        self.look()

    async def run(self) -> None:
        """Follow the file until cancelled; reading is left to a thread."""
        while True:
            await asyncio.sleep(self._interval_s)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take up the file when it has changed; never raises."""
        seen = self._stamp()
        if seen == self._seen:
            return
        try:
            data, rules = (b"", NO_RULES) if seen is None else _read(self.path)
        except ConfigurationError as error:
            RULES_READ.labels("refused").inc()
            logger.warning("the rules before stay in force: %s", error)
        else:
            if rules != self.current:
                RULES_READ.labels("taken").inc()
                logger.info(
                    "rules %s: %d, exploration: %s", rules.version or "(none)", len(rules.rules),
                    rules.exploration.described() if rules.exploration else "none",
                )  # fmt: skip
            if self._history is not None and rules.version:
                keep_version(self._history, rules.version, data)
            self.current = rules
        self._seen = seen

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self.path)  # noqa: PTH116  once a second
        except FileNotFoundError:
            return None
        except OSError:
            return _NOT_LOOKED
        return status.st_mtime_ns, status.st_ino, status.st_size


def read_operator_file(path: Path) -> OperatorRules:
    """Read and check a file of rules.

    Raises:
        ConfigurationError: when it cannot be read, is larger than any such file, or is wrong.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[bytes, OperatorRules]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: wanted a file of rules, found: {error.strerror}; "
            "see docs/reranking.md for what it says"
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(
            f"{path}: wanted at most {MAX_FILE_BYTES} bytes of rules, found more; "
            "boost categories or tags instead of single items"
        )
    return data, read_operator_rules(data, source=str(path))


def install(source: Path, target: Path) -> OperatorRules:
    """Check ``source`` and put it in force as ``target``; every API process follows in a second.

    Raises:
        ConfigurationError: when ``source`` is wrong; ``target`` is left as it was.
    """
    rules = read_operator_file(source)
    make_directory(target.parent)
    write_durably(target, source.read_bytes())
    return rules
