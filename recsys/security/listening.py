"""Whether callers must say who they are: decided once, before anything listens."""

from __future__ import annotations

import ipaddress

from recsys.errors import ConfigurationError
from recsys.security.authenticator import KeyRing
from recsys.security.key_file import KeyFile
from recsys.settings import Settings

DEFAULT_ADMIN_PORT = 8081


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach ``host``. A name other than localhost: no."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def key_file(settings: Settings) -> KeyFile:
    """Give the file of keys."""
    return KeyFile(settings.state_dir / "security" / "keys.json")


def callers_are_asked(settings: Settings) -> bool:
    """Say whether the API wants a key; see ``require_callers_known``."""
    if settings.auth == "off":
        return False
    return settings.auth == "required" or not is_loopback(settings.api_host_in_force)


def require_callers_known(settings: Settings) -> bool:
    """Say whether the API wants a key, and refuse what would lock everyone out or let all in.

    ======================= ==================== ===========================================
    ``RECSYS_AUTH``         listens on loopback  listens beyond
    ======================= ==================== ===========================================
    unset                   nobody is asked      asked; refused to start without a key
    ``required``            asked                asked
    ``off``                 nobody is asked      nobody is asked
    ======================= ==================== ===========================================

    Raises:
        ConfigurationError: when callers are asked and there is neither a valid key nor an issuer of
            tokens.
    """
    if not callers_are_asked(settings):
        return False
    if settings.jwt_jwks is None and not len(KeyRing(key_file(settings))):
        host = settings.api_host_in_force
        why = "RECSYS_AUTH is `required`"
        if not is_loopback(host):
            why = f"{host} can be reached from other machines"
        raise ConfigurationError(
            f"{why}, so the API wants a key of its callers, and found none that is valid; run "
            "`recsys keys create --scope serve --scope ingest --owner NAME`, or set "
            "RECSYS_JWT_JWKS, or, to let everyone in, RECSYS_AUTH=off"
        )
    return True


def admin_port(settings: Settings) -> int | None:
    """Give the port of the admin endpoints; ``None`` when they are on the API's own.

    Unset it is 8081 where callers are asked, and the API's own where they are not.
    """
    wanted = settings.admin_port
    if wanted is None:
        wanted = DEFAULT_ADMIN_PORT if callers_are_asked(settings) else 0
    if wanted == settings.api_port:
        raise ConfigurationError(
            f"RECSYS_ADMIN_PORT: wanted another port than RECSYS_API_PORT, found {wanted} for "
            "both; 0 puts the admin endpoints on the API's port"
        )
    return wanted or None
