"""Feast's spelling of a Redis address, as a URL."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")


def url_of(connection_string: str, *, is_cluster: bool) -> str | None:
    """Give the URL of ``host:port,option=value,…``; ``None`` when it has options we do not know.

    >>> url_of("cache:6380,db=2,ssl=true,password=p@ss", is_cluster=False)
    'rediss://:p%40ss@cache:6380/2'
    """
    places, options = [], {}
    for part in connection_string.split(","):
        name, separator, value = part.partition("=")
        if separator:
            options[name] = value
        else:
            places.append(name)
    uses_tls = options.pop("ssl", "false").lower() == "true"
    user, password = (_text(options.pop(name, "")) for name in ("username", "password"))
    database = options.pop("db", "0")
    options.pop("skip_full_coverage_check", None)  # of redis-py's cluster client
    query = {name: options.pop(name) for name in _TLS if name in options}
    if "ssl_check_hostname" in options:
        query["ssl_check_hostname"] = options.pop("ssl_check_hostname").lower()
    if options:
        return None
    scheme = ("rediss" if uses_tls else "redis") + ("+cluster" if is_cluster else "")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    path = "" if is_cluster else f"/{database}"
    return f"{scheme}://{login}{','.join(places)}{path}{'?' + urlencode(query) if query else ''}"


def _text(value: str) -> str:
    """Read a value as Feast does: as JSON where it is some."""
    try:
        return str(json.loads(value))
    except ValueError:
        return value
