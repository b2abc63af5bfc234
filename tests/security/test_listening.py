"""Whether callers are asked, and what is refused before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.errors import ConfigurationError
from recsys.security.listening import (
    admin_port,
    is_loopback,
    key_file,
    require_callers_known,
)
from recsys.settings import Settings
from serving.supervisor.plan import make_plan


def settings_of(folder: Path, **variables: str) -> Settings:
    return Settings.model_validate({"RECSYS_STATE_DIR": folder, **variables})


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.7", False),
        ("api.example.com", False), ("", False),
    ],
)  # fmt: skip
def test_only_loopback_is_alone(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_laptop_is_asked_for_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert require_callers_known(settings) is False
    assert admin_port(settings) is None


@pytest.mark.parametrize("variable", ["RECSYS_HOST", "RECSYS_API_HOST"])
def test_reachable_without_a_key_is_refused(tmp_path: Path, variable: str) -> None:
    settings = settings_of(tmp_path, **{variable: "0.0.0.0"})
    with pytest.raises(ConfigurationError, match=r"0\.0\.0\.0 can be reached.*recsys keys create"):
        require_callers_known(settings)
    assert require_callers_known(settings_of(tmp_path, RECSYS_AUTH="off", **{variable: "::"})) is (
        False
    )
    key = key_file(settings).create(("serve",), owner="shop")
    assert require_callers_known(settings) is True
    assert admin_port(settings) == 8081
    key_file(settings).revoke(key.key_id)
    with pytest.raises(ConfigurationError):
        require_callers_known(settings)


def test_required_asks_on_loopback_too(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, RECSYS_AUTH="required")
    with pytest.raises(ConfigurationError, match="RECSYS_AUTH is `required`"):
        require_callers_known(settings)


def test_two_ports_must_be_two(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, RECSYS_API_PORT="9000", RECSYS_ADMIN_PORT="9000")
    with pytest.raises(ConfigurationError, match="wanted another port"):
        admin_port(settings)


def test_embedded_servers_do_not_open_to_other_machines(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, RECSYS_HOST="0.0.0.0")
    with pytest.raises(ConfigurationError, match="reach redis, which ask nobody for a password"):
        make_plan(settings, ["redis"], lambda _: None)
    (redis,) = make_plan(
        settings_of(tmp_path, RECSYS_HOST="0.0.0.0", RECSYS_AUTH="off"), ["redis"], lambda _: None
    )
    assert redis.launch is not None
