"""What is written down holds no secret: rule by rule, and from real runs of the real processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import ConfigurationError
from recsys.security.keys import make_key
from recsys.security.redaction import redact, redact_logs
from recsys.settings import Settings

SECRET = "hunter2-s3cr3t"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"redis://:{SECRET}@host:6379/0 is away", "redis://***@host:6379/0 is away"),
        (f"rediss://bob:{SECRET}@[::1]:6379", "rediss://***@[::1]:6379"),
        (f"redis://u:{SECRET}@{SECRET}@h", "redis://***@h"),
        ("http://host:80/a?x=1 and", "http://host:80/a?x=1 and"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        (f"{{'authorization': 'Basic {SECRET}'}}", "{'authorization': 'Basic ***'}"),
        ("token eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln end", "token *** end"),
        (f"KAFKA_SASL_PASSWORD={SECRET}", "KAFKA_SASL_PASSWORD=***"),
        (f"sasl_plain_password='{SECRET}', x=1", "sasl_plain_password='***', x=1"),
        (f'"password": "{SECRET}"', '"password": "***"'),
        ("the password is wrong", "the password is wrong"),
    ],
)
def test_rules(text: str, left: str) -> None:
    assert redact(text) == left


def test_key_leaves_its_id() -> None:
    key = make_key()
    assert redact(f"key {key.text}.") == f"key rsk_{key.key_id}_***."


def test_tracebacks_and_fields_of_logs_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    redact_logs([handler])
    redact_logs([handler])
    logger = logging.getLogger("test_redaction")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        raise ValueError(f"redis://:{SECRET}@host refused")
    except ValueError:
        logger.exception("asked with %s", f"Bearer {SECRET}")
    finally:
        logger.removeHandler(handler)
    written = capsys.readouterr().err
    assert "Traceback" in written and "asked with Bearer ***" in written
    assert SECRET not in written


def test_settings_show_no_secret() -> None:
    secrets = {
        "REDIS_URL": f"redis://:{SECRET}@h", "KAFKA_SASL_PASSWORD": SECRET,
        "KAFKA_SSL_PASSWORD": SECRET, "MLFLOW_TRACKING_URI": f"https://u:{SECRET}@h",
    }  # fmt: skip
    assert SECRET not in repr(Settings.model_validate(secrets))
    with pytest.raises(ConfigurationError) as wrong:
        Settings.model_validate(secrets | {"RECSYS_API_PORT": "no port"})
    assert SECRET not in str(wrong.value)


def test_up_with_servers_away_writes_no_secret(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RECSYS_STATE_DIR": str(tmp_path),
        "REDIS_URL": f"redis://bob:{SECRET}@127.0.0.1:1/0",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "serving.supervisor", "up", "--only", "redis"],
        capture_output=True, text=True, env=environment, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2
    assert "REDIS_URL wanted a redis server at redis://127.0.0.1:1/0" in done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    written = done.stdout + done.stderr + "".join(path.read_text() for path in files)
    assert SECRET not in written
