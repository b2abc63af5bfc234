"""Keys: what the holder has, what rests, and who is let in."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ConfigurationError, InputError
from recsys.security import cli
from recsys.security.authenticator import AccessError, Authenticator, KeyRing
from recsys.security.key_file import KeyFile
from recsys.security.keys import make_key, parse_key

DAY_MS = 86_400_000


class Times:
    """A clock and a stopwatch that are turned by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.elapsed = 0.0

    def now_ms(self) -> int:
        return self.now

    def elapsed_s(self) -> float:
        return self.elapsed


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def keys(tmp_path: Path, times: Times) -> KeyFile:
    return KeyFile(tmp_path / "security" / "keys.json", clock=times.now_ms)


@pytest.fixture
def ring(keys: KeyFile, times: Times) -> KeyRing:
    return KeyRing(keys, clock=times.now_ms, elapsed_s=times.elapsed_s)


def reason_of(ring: KeyRing, text: str) -> str:
    with pytest.raises(AccessError) as refused:
        Authenticator(ring).authenticate(f"Bearer {text}", None)
    assert text not in str(refused.value)
    return refused.value.reason


def test_secret_is_nowhere_in_the_file_and_nobody_else_may_read_it(keys: KeyFile) -> None:
    key = keys.create(("serve",), owner="shop")
    content = keys.path.read_text()
    assert key.text not in content
    assert key.text.removeprefix(f"rsk_{key.key_id}_") not in content
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_keys_are_256_random_bits_each_time() -> None:
    drawn = {make_key().text for _ in range(100)}
    assert len(drawn) == 100
    # 43 characters of base64 are 258 bits, the last character's two lowest of them 0.
    assert all(len(text.split("_", 2)[2]) == 43 for text in drawn)


@pytest.mark.parametrize(
    "text", ["", "rsk_", "rsk_0123456789ab_short", " rsk_", "RSK_0123456789ab_" + "a" * 43]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert parse_key(text) is None


def test_key_lets_in_with_its_scopes_by_either_header(keys: KeyFile, ring: KeyRing) -> None:
    key = keys.create(("serve", "ingest"), owner="shop", rate_per_s=5, burst=9)
    door = Authenticator(ring)
    for headers in ((f"Bearer {key.text}", None), (None, key.text), (f"bearer  {key.text}", None)):
        caller = door.authenticate(*headers)
        assert caller.name == f"key:{key.key_id}"
        assert caller.scopes == {"serve", "ingest"}
        assert (caller.rate_per_s, caller.burst) == (5, 9)


def test_one_wrong_character_is_not_let_in(keys: KeyFile, ring: KeyRing) -> None:
    key = keys.create(("serve",), owner="shop")
    last = "A" if key.text[-1] != "A" else "B"
    assert reason_of(ring, key.text[:-1] + last) == "unknown"
    other = make_key()
    assert reason_of(ring, other.text) == "unknown"
    secret = key.text.split("_", 2)[2]
    assert reason_of(ring, f"rsk_{other.key_id}_{secret}") == "unknown"
    assert reason_of(ring, "rsk_cut") == "malformed"
    for authorization, reason in ((None, "missing"), ("Basic abc", "malformed")):
        with pytest.raises(AccessError) as refused:
            Authenticator(ring).authenticate(authorization, None)
        assert refused.value.reason == reason


def test_expiry_is_exact(keys: KeyFile, ring: KeyRing, times: Times) -> None:
    key = keys.create(("serve",), owner="shop", expires_ms=times.now + 1_000)
    times.now += 999
    assert ring.verify(key).scopes == {"serve"}
    times.now += 1
    assert reason_of(ring, key.text) == "expired"


def test_change_is_seen_at_the_next_look(keys: KeyFile, ring: KeyRing, times: Times) -> None:
    key = keys.create(("serve",), owner="shop")
    ring.verify(key)
    keys.revoke(key.key_id)
    ring.verify(key)  # not looked at again yet
    times.elapsed += 0.25
    assert reason_of(ring, key.text) == "revoked"
    assert len(ring) == 0


def test_rotation_gives_both_a_while_and_the_new_one_the_same_life(
    keys: KeyFile, ring: KeyRing, times: Times
) -> None:
    old = keys.create(("serve", "admin"), owner="shop", expires_ms=times.now + 90 * DAY_MS)
    times.now += 80 * DAY_MS
    new = keys.rotate(old.key_id, grace_ms=DAY_MS)
    assert ring.verify(old) and ring.verify(new).scopes == {"serve", "admin"}
    times.now += DAY_MS
    assert reason_of(ring, old.text) == "expired"
    times.now += 89 * DAY_MS - 1
    assert ring.verify(new)
    times.now += 1
    assert reason_of(ring, new.text) == "expired"
    with pytest.raises(InputError, match="expired"):
        keys.rotate(old.key_id, grace_ms=DAY_MS)
    with pytest.raises(InputError, match="wanted the id of a key, found 'nobody'"):
        keys.revoke("nobody")


def test_damaged_file_leaves_known_callers_known_and_stops_a_fresh_process(
    keys: KeyFile, ring: KeyRing, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    key = keys.create(("serve",), owner="shop")
    ring.verify(key)
    good = keys.path.read_bytes()
    keys.path.write_bytes(good[:50])
    for _ in range(3):
        times.elapsed += 1
        ring.verify(key)
    assert caplog.text.count("the API keys stay as they were") == 1
    with pytest.raises(ConfigurationError, match="put back a copy"):
        len(KeyRing(keys))
    keys.path.write_bytes(good)
    keys.revoke(key.key_id)
    times.elapsed += 1
    assert reason_of(ring, key.text) == "revoked"


def test_two_who_change_at_once_lose_nothing(keys: KeyFile) -> None:
    def add() -> None:
        for _ in range(10):
            keys.create(("serve",), owner="shop")

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.key_id for record in keys.read()}) == 30


def test_command_line_from_creation_to_revocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))

    def run(*words: str) -> Any:
        assert cli.main(words) == 0
        return json.loads(capsys.readouterr().out)

    made = run(
        "create", "--scope", "serve", "--owner", "shop", "--expires-in", "90d", "--rate", "50"
    )
    rotated = run("rotate", made["key_id"], "--grace", "1h")
    run("revoke", made["key_id"])
    listed = run("list", "--json")
    assert [(key["key_id"], key["state"]) for key in listed] == [
        (made["key_id"], "revoked"),
        (rotated["key_id"], "valid"),
    ]
    assert listed[0]["rate_per_s"] == 50 and "sha256" not in listed[0]
    ring = KeyRing(KeyFile(tmp_path / "security" / "keys.json"))
    assert Authenticator(ring).authenticate(None, rotated["key"]).scopes == {"serve"}
    cli.main(["list"])
    assert rotated["key_id"] in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["create", "--scope", "serve", "--owner", "x", "--expires-in", "soon"])
    assert "wanted a number and s, m, h or d" in capsys.readouterr().err
    with pytest.raises(InputError, match="wanted the id of a key"):
        cli.main(["revoke", "nobody"])
