"""Secrets are taken out of what is written down: passwords in URLs, keys, tokens.

The last line of defence: no message of ours is meant to hold one. It is for texts of libraries and
for tracebacks, which quote what they were given.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

HIDDEN = "***"
_RULES = (
    # scheme://user:password@host; a password may hold anything but white space and quotes.
    (re.compile(r"(?<=://)[^\s/?#'\"]*:[^\s'\"]*@(?=[^\s/?#'\"@]+)"), f"{HIDDEN}@"),
    (re.compile(r"\brsk_([0-9a-f]{12})_[A-Za-z0-9_-]+"), rf"rsk_\1_{HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(r"(?i)((?:password|passwd|secret|api[_-]?key)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;)}]+"),
        rf"\1{HIDDEN}",
    ),
)  # fmt: skip


def redact(text: str) -> str:
    """Give the text without secrets."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats as another does, and takes the secrets out; tracebacks included."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Give what is written."""
        return redact(self._inner.format(record))


def redact_logs(handlers: Iterable[logging.Handler] | None = None) -> None:
    """Have every handler of the root logger, or those given, write no secrets."""
    for handler in logging.getLogger().handlers if handlers is None else handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter or logging.Formatter()))
