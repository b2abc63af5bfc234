"""What a server needs of the machine is checked beforehand and told in one line."""

from __future__ import annotations

import hashlib
import os
import socket
import sysconfig
from pathlib import Path

import pytest

from recsys.errors import ServerError
from recsys.settings import Settings
from serving.embedded import broker, java, machine, maven, redis
from serving.embedded.maven import Jar, fetch_jars, read_lock


def test_a_taken_port_names_its_holder_and_the_variable() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            ServerError, match=rf"wanted port {port} .* \(pid {os.getpid()}\).* set RECSYS_X"
        ):
            machine.require_free_port("127.0.0.1", port, "redis", "RECSYS_X")
    machine.require_free_port("127.0.0.1", port, "redis", "RECSYS_X")


def test_an_old_glibc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "confstr", lambda _name: "glibc 2.31")
    with pytest.raises(ServerError, match=r"wants .* glibc 2\.35 or newer, found .* glibc 2\.31"):
        machine.require_glibc((2, 35), "Triton")


def test_a_python_without_its_shared_library_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine.sys, "base_prefix", str(tmp_path))
    values = {"INSTSONAME": "libpython3.99.so.1.0", "LIBDIR": str(tmp_path), "MULTIARCH": "none"}
    monkeypatch.setattr(sysconfig, "get_config_var", values.get)
    with pytest.raises(ServerError, match=r"wants libpython3\.99\.so\.1\.0, found a Python built"):
        machine.libpython_folder("Triton")


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_an_old_java_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _program(tmp_path / "bin" / "java", """echo 'openjdk version "11.0.2"' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert java.find_java().program != tmp_path / "bin" / "java"  # the wheel's
    monkeypatch.setattr(java, "_candidates", lambda: [tmp_path / "bin" / "java"])
    with pytest.raises(ServerError, match=r"wants Java 17 .* found .*java \(release 11\)"):
        java.find_java()


def test_an_old_redis_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_settings: Settings
) -> None:
    _program(tmp_path / "redis-server", "echo 'Redis server v=6.0.16 sha=0'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(
        redis.shutil, "which", lambda name: str(tmp_path / name) if "redis" in name else None
    )
    assert redis.redis_launch(own_settings).version.startswith("Valkey")


def test_a_jar_of_another_content_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _program(tmp_path / "bin" / "mvn", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(maven, "_fetch_with_jgo", lambda _jars, _target: "no network")
    jar = Jar("g", "a", "1", hashlib.sha256(b"right").hexdigest())
    target = tmp_path / "jars"
    target.mkdir()
    (target / jar.filename).write_bytes(b"wrong")
    with pytest.raises(ServerError, match=r"a-1\.jar has SHA-256 .* jgo: no network"):
        fetch_jars([jar], target, lambda _line: None)
    (target / jar.filename).write_bytes(b"right")
    fetch_jars([jar], target, lambda _line: None)


def test_the_lock_pins_every_jar() -> None:
    jars = read_lock(maven.KAFKA_JARS_LOCK)
    assert f"kafka_2.13-{maven.KAFKA_VERSION}.jar" in {jar.filename for jar in jars}
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_without_jars_the_broker_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, own_settings: Settings
) -> None:
    def unreachable(*_arguments: object) -> None:
        raise ServerError("no way to fetch the jars")

    monkeypatch.setattr(broker, "kafka_launch", unreachable)
    said: list[str] = []
    launch, profile = broker.broker_launch(own_settings, said.append)
    assert profile == "tansu"
    assert "loses them" in launch.note
    assert any("no way to fetch the jars" in line for line in said)
    forced = own_settings.model_copy(update={"broker": "kafka"})
    with pytest.raises(ServerError, match="no way to fetch"):
        broker.broker_launch(forced, said.append)


def test_a_wrong_kafka_home_is_told(own_settings: Settings, tmp_path: Path) -> None:
    settings = own_settings.model_copy(update={"kafka_home": tmp_path})
    with pytest.raises(ServerError, match="KAFKA_HOME wanted an unpacked Kafka"):
        broker.broker_launch(settings, lambda _line: None)
