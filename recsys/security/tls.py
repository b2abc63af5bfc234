"""TLS of the API, at both ends; 1.2 is the oldest version spoken."""

from __future__ import annotations

import ssl
from pathlib import Path

from recsys.errors import ConfigurationError
from recsys.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Give what the API's sockets speak; ``None``: plain HTTP.

    Raises:
        ConfigurationError: when a file is missing, is no certificate, or does not fit the others.
    """
    if settings.tls_certfile is None:
        if settings.tls_keyfile or settings.tls_client_cafile:
            raise ConfigurationError(
                "wanted RECSYS_TLS_CERTFILE beside RECSYS_TLS_KEYFILE and "
                "RECSYS_TLS_CLIENT_CAFILE, found it unset; set it, or unset the others"
            )
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.tls_certfile, settings.tls_keyfile, _no_password)
        if settings.tls_client_cafile is not None:
            context.load_verify_locations(settings.tls_client_cafile)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"wanted PEM files for the TLS of the API (RECSYS_TLS_CERTFILE={settings.tls_certfile},"
            f" RECSYS_TLS_KEYFILE={settings.tls_keyfile}, "
            f"RECSYS_TLS_CLIENT_CAFILE={settings.tls_client_cafile}), found: {error}"
        ) from error
    return context


def client_context(
    cafile: str | Path | None, certfile: str | Path | None = None, keyfile: str | Path | None = None
) -> ssl.SSLContext:
    """Give how a client checks the API, and shows who it is where a certificate is wanted.

    Args:
        cafile: Authorities; ``None``: the system's.
        certfile: Our certificate chain; ``None``: none is shown.
        keyfile: Its key; ``None``: in the same file.

    Raises:
        ConfigurationError: when a file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=cafile)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certfile:
            context.load_cert_chain(certfile, keyfile, _no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"wanted PEM files (authorities {cafile}, certificate {certfile}, key {keyfile}), "
            f"found: {error}"
        ) from error
    return context


def own_question_context(settings: Settings) -> ssl.SSLContext:
    """Give how this machine asks its own API whether it lives.

    The certificate names the host that callers use, not loopback, so it is not checked: no secret
    is sent, and of the answer only the status is believed. Where callers must show a certificate,
    the API's own is shown.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.tls_client_cafile is not None and settings.tls_certfile is not None:
        context.load_cert_chain(settings.tls_certfile, settings.tls_keyfile, _no_password)
    return context


def _no_password() -> str:
    """Without it OpenSSL would ask at the terminal, and a server would wait there for ever."""
    raise ValueError("the key is encrypted; give one that is not, readable by its owner alone")
