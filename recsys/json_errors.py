"""What a JSON decoder refused, as the field, what was wanted there and what was found.

The decoder's own texts name a limit but not the value that broke it, write ``[...]`` for the key of
a mapping, and call half a surrogate pair a truncated text. Senders are told better.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

_AT_PATH = re.compile(r" - at `(key` in `)?\$\.?(.*)`$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"^Object missing required field `(.*)`$", re.DOTALL)
_EXPECTED_GOT = re.compile(r"^Expected `(.+?)`(.*), got `(.+)`$", re.DOTALL)
_INVALID_VALUE = re.compile(r"^Invalid (?:enum )?value (.+)$", re.DOTALL)
_PATH_STEP = re.compile(r"\[\.\.\.\]|[^.\[\]]+")
_ANY_KEY = "[...]"
_MALFORMED_AT = re.compile(r"\(byte (\d+)\)$")
_NOT_FINITE = re.compile(rb"-?(?:NaN|Infinity|inf|nan)")
_LAST_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:[^"]*"?[^"]*$')
_WHOLE_CHARACTERS = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u(?![dD][89a-fA-F])|\\[^u])*+", re.DOTALL
)
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_HIGH_HALF = re.compile(rb"\\u[dD][89abAB]")
_CUT_OFF = re.compile(rb"(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
_MAX_SHOWN = 60
_MAX_KEYS = 1_000
"""Finding the wrong one among more keys than any schema allows is not worth the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why bytes are not a value of the wanted type."""

    field: str
    """Path such as ``items[3]`` or ``context.page``; ``""`` for the whole."""
    wanted: str
    found: str
    malformed: bool
    """The bytes are not JSON, so that nothing can be said about their fields."""

    @property
    def message(self) -> str:
        """Field, wanted and found in one sentence."""
        where = f"{self.field}: " if self.field else ""
        return f"{where}wanted {self.wanted}, found {self.found}"


def explain(data: bytes, error: Exception, decode: Callable[[bytes], object]) -> Explanation:
    """Explain what ``decode(data)`` raised.

    Args:
        data: The bytes that were decoded.
        error: A ``ValueError`` (msgspec's are) or a ``RecursionError``.
        decode: The decoder. It is asked again, at most ten times, which key of a mapping it meant.
    """
    if isinstance(error, UnicodeDecodeError):
        return _malformed("UTF-8", f"other bytes ({error.reason})")
    if isinstance(error, RecursionError):
        return _malformed("a flat JSON object", "deep nesting")
    if not isinstance(error, msgspec.ValidationError):
        return _explain_malformed(data, str(error))
    return _explain_invalid(data, str(error), decode)


def shown(value: object) -> str:
    """Give ``value`` as text of bounded length for a message."""
    text = repr(value)
    if len(text) <= _MAX_SHOWN:
        return text
    if isinstance(value, str | list | dict):
        return f"{type(value).__name__} of length {len(value)}: {text[:_MAX_SHOWN]}..."
    return f"{text[:_MAX_SHOWN]}..."


def _malformed(wanted: str, found: str, field: str = "") -> Explanation:
    return Explanation(field=field, wanted=wanted, found=found, malformed=True)


def _explain_malformed(data: bytes, text: str) -> Explanation:
    at = _MALFORMED_AT.search(text)
    if at and (
        number := _NOT_FINITE.match(data, max(int(at[1]) - 1, 0))
        or _NOT_FINITE.match(data, int(at[1]))
    ):
        field = _key_before(data, number.start())
        found = f"{number[0].decode()}; leave the field out"
        return _malformed("a finite number", found, field)
    if ("surrogate" in text or "truncated" in text) and (half := _half_a_pair(data)):
        found = f"half a surrogate pair, {half[0].decode()} at byte {half.start()}"
        return _malformed("Unicode text", found, _key_before(data, half.start()))
    return _malformed("one JSON object", f"something else: {text}")


def _key_before(data: bytes, position: int) -> str:
    key = _LAST_KEY.search(data[max(position - 4096, 0) : position])
    return key[1].decode(errors="replace")[:_MAX_SHOWN] if key else ""


def _half_a_pair(data: bytes) -> re.Match[bytes] | None:
    r"""Find the first ``\ud800`` … ``\udfff`` that is no part of a pair; a text cut off is none."""
    whole = _WHOLE_CHARACTERS.match(data)
    half = _HALF_A_PAIR.match(data, whole.end() if whole else 0)
    if half and _HIGH_HALF.match(half[0]) and _CUT_OFF.match(data, half.end()):
        return None
    return half


def _explain_invalid(data: bytes, text: str, decode: Callable[[bytes], object]) -> Explanation:
    path, is_key, says = "", False, text
    if at := _AT_PATH.search(text):
        path, is_key, says = at[2], bool(at[1]), text[: at.start()]
    if unknown := _UNKNOWN_FIELD.search(says):
        path, wanted = _join(path, unknown[1][:_MAX_SHOWN]), "only fields of the schema"
        return Explanation(field=path, wanted=wanted, found="an unknown field", malformed=False)
    if missing := _MISSING_FIELD.search(says):
        path = _join(path, missing[1])
        return Explanation(field=path, wanted="this field", found="none", malformed=False)
    path, found = _look(data, path, is_key, text, decode)
    if got := _EXPECTED_GOT.search(says):
        wanted, found = f"{got[1]}{got[2]}", got[3]
    elif says.startswith("Expected "):
        wanted = says.removeprefix("Expected ").replace("`", "")
    elif invalid := _INVALID_VALUE.search(says):
        wanted, found = "a value of the schema", invalid[1][: 2 * _MAX_SHOWN]
    else:
        wanted, found = "a valid value", f"{says[0].lower()}{says[1:]}"[: 2 * _MAX_SHOWN]
    if is_key:
        wanted = f"keys to be {wanted}"
    return Explanation(field=path, wanted=wanted, found=found, malformed=False)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _look(
    data: bytes, path: str, is_key: bool, text: str, decode: Callable[[bytes], object]
) -> tuple[str, str]:
    """Give ``path`` with its keys named, and the value there (or the key, when that is wrong)."""
    steps = _PATH_STEP.findall(path)
    try:
        document = value = msgspec.json.decode(data)
        named, key = "", ""
        for step in steps + [_ANY_KEY] * is_key:
            if step == _ANY_KEY:
                key = _wrong_key(document, value, text, decode)
                value, named = value[key], _join(named, key[:_MAX_SHOWN])
            elif isinstance(value, list):
                value, named = value[int(step)], f"{named}[{step}]"
            else:
                value, named = value[step], _join(named, step)
    except (ValueError, LookupError, TypeError, RecursionError):
        return path, "another value"
    return (path, shown(key)) if is_key else (named, shown(value))


def _wrong_key(
    document: Any, mapping: dict[str, Any], text: str, decode: Callable[[bytes], object]
) -> str:
    """Give the first key of ``mapping``, a part of ``document``, that ``decode`` refuses.

    Leaves only that key in ``mapping``.

    Raises:
        LookupError: when it is not to be found, for a key that comes twice say.
    """
    entries = list(mapping.items())
    if len(entries) > _MAX_KEYS:
        raise LookupError(text)

    def refused(count: int) -> bool:
        mapping.clear()
        mapping.update(entries[:count])
        try:
            decode(msgspec.json.encode(document))
        except msgspec.ValidationError as error:
            return str(error) == text
        return False

    if not refused(len(entries)):
        raise LookupError(text)
    good, bad = 0, len(entries)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if refused(middle) else (middle, bad)
    mapping.clear()
    mapping.update(entries[bad - 1 : bad])
    return entries[bad - 1][0]
