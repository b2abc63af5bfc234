"""Any HTTP service as a target, by a small TOML file: a table for each kind of request.

    [recommend]
    method = "POST"                             # GET where there is no body
    path = "/list?n={k}"
    body = '{"customer": "{user}"}'
    headers = { Authorization = "Bearer ${SERVICE_TOKEN}" }   # from the environment
    items = "result.entries[].sku"              # where the answer has the items it shows …
    request_id = "result.id"                    # … and its own name, if it has one

    [events]
    path = "/seen"
    body = '{"list": "{request_id}", "shown": {items}, "clicked": {clicked}}'

Placeholders: {user}, {k}, {number}, {now_ms}, {uuid}; {item} and {items} of rank, similar and
events; {request_id} and {clicked} of events. {items} and {clicked} are JSON lists; the others are
text, escaped for the path or for JSON.
"""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from benchmarks.loadtest.http_connections import HttpConnections
from benchmarks.loadtest.http_request import prepare
from benchmarks.loadtest.server_timing import note_stages
from benchmarks.loadtest.targets import Address, Stages
from benchmarks.loadtest.traffic import KINDS, Traffic, Wanted
from recsys.errors import InputError

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TEXTS = frozenset({"user", "k", "number", "now_ms", "uuid", "item", "request_id"})
_LISTS = frozenset({"items", "clicked"})
_OF_KINDS = {
    "item": {"rank", "similar", "events"}, "items": {"rank", "similar", "events"},
    "clicked": {"events"}, "request_id": {"events"},
}  # fmt: skip


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    method: str = ""
    body: str | None = None
    headers: dict[str, str] = {}
    items: str = ""
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A read file."""

    tables: Mapping[str, _Table]

    def check(self, mix: Mapping[str, float], name: Path) -> None:
        """Raise InputError when a kind of the mix cannot be asked."""
        wanted = {kind for kind, weight in mix.items() if weight}
        missing = sorted(wanted - set(self.tables))
        if missing:
            raise InputError(
                f"{name}: wanted a table for each kind of --mix, found none for "
                f"{', '.join(missing)}"
            )
        if wanted - {"recommend"} and not self.tables["recommend"].items:
            raise InputError(
                f"{name}: wanted recommend.items, where an answer has the items it shows, for "
                f"{', '.join(sorted(wanted - {'recommend'}))}; found none"
            )


def read_template(path: Path) -> Template:
    """Read a template. Raises InputError naming what is wrong."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text()), dict[str, _Table])
    except OSError as error:
        raise InputError(f"wanted a template in {path}, found: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: {error}") from error
    strange = sorted(set(found) - set(KINDS))
    if strange or "recommend" not in found:
        raise InputError(
            f"{path}: wanted tables of {', '.join(KINDS)}, recommend among them, found "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    for kind, table in found.items():
        for text in (table.path, table.body or "", *table.headers.values()):
            for name in _PLACEHOLDER.findall(text):
                if name not in _TEXTS | _LISTS or kind not in _OF_KINDS.get(name, {kind}):
                    known = sorted(n for n in _TEXTS | _LISTS if kind in _OF_KINDS.get(n, {kind}))
                    raise InputError(
                        f"{path}: {kind}: wanted one of {', '.join(known)} in braces, found "
                        f"{{{name}}}"
                    )
        if not table.path.startswith("/"):
            raise InputError(f"{path}: {kind}.path: wanted a path from /, found {table.path!r}")
    return Template(tables=found)


class TemplateTarget:
    """See ``targets.Target``."""

    def __init__(self, address: Address, template: Template) -> None:
        self._address, self._tls = address, address.tls()
        self._tables = template.tables
        self._headers = {
            kind: {name: _from_environment(value) for name, value in table.headers.items()}
            for kind, table in template.tables.items()
        }

    def put(self, wanted: Wanted) -> bytes:
        """Give the bytes of a request."""
        table = self._tables[wanted.kind]
        values = _values(wanted)
        body = None if table.body is None else _filled(table.body, values, _as_json)
        address = self._address
        return prepare(
            table.method or ("GET" if body is None else "POST"),
            _filled(table.path, values, lambda text: quote(text, safe="")),
            None if body is None else body.encode(),
            host=f"{address.host}:{address.port}",
            headers={
                name: _filled(value, values, _one_line)
                for name, value in self._headers[wanted.kind].items()
            },
        )

    def shown(self, answer: bytes) -> tuple[str, Sequence[str]]:
        """See ``traffic.Words.shown``; an answer that is otherwise than said shows nothing."""
        table = self._tables["recommend"]
        try:
            document = json.loads(answer)
        except ValueError:
            return "", ()
        names = _at(document, table.request_id) if table.request_id else []
        return (str(names[0]) if names else ""), [str(v) for v in _at(document, table.items)]

    def outlet(self, traffic: Traffic, stages: Stages) -> HttpConnections:
        """See ``targets.Target.outlet``."""

        def read(number: int, status: int, body: bytes, timing: bytes) -> str:
            if 200 <= status < 300:
                traffic.answered(number, body)
            if timing:
                note_stages(timing, stages)
            return str(status)

        address = self._address
        return HttpConnections(address.host, address.port, self._tls, read=read, with_timing=True)


def _values(wanted: Wanted) -> dict[str, str | list[str]]:
    shown = wanted.shown
    items = list(shown.items) if shown is not None else list(wanted.items)
    return {
        "user": wanted.user_id, "k": str(wanted.k), "number": str(wanted.number),
        "now_ms": str(int(time.time() * 1e3)), "uuid": uuid.uuid4().hex,
        "item": items[0] if items else "", "items": items,
        "clicked": [items[place] for place in wanted.clicks],
        "request_id": shown.request_id if shown is not None else "",
    }  # fmt: skip


def _filled(text: str, values: Mapping[str, str | list[str]], escape: Any) -> str:
    def value(found: re.Match[str]) -> str:
        one = values[found[1]]
        if isinstance(one, list):
            whole = json.dumps(one)
            return whole if escape is _as_json else str(escape(whole))
        return str(escape(one))

    return _PLACEHOLDER.sub(value, text)


def _as_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _from_environment(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise InputError(f"wanted {found[1]} in the environment for a header, found none")
        return os.environ[found[1]]

    return _VARIABLE.sub(value, text)


def _at(document: Any, path: str) -> list[Any]:
    """Give what stands at a path such as ``result.entries[].sku``; nothing where there is none."""
    found = [document]
    for part in path.split("."):
        name, each = part.removesuffix("[]"), part.endswith("[]")
        if name:
            found = [one[name] for one in found if isinstance(one, dict) and name in one]
        if each:
            found = [two for one in found if isinstance(one, list) for two in one]
    return [one for one in found if not isinstance(one, dict | list)]
