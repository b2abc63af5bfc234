"""``recsys up`` keeps servers running through kills, and ``recsys down`` leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from recsys.endpoints import endpoints_file, resolve
from recsys.settings import Settings
from serving.supervisor.child import RestartPolicy
from serving.supervisor.leftovers import is_running
from serving.supervisor.state import ServerState, read_state, running_supervisor, take_lock

pytestmark = pytest.mark.servers

_PATIENCE_S = 40.0


class Recsys:
    """Runs ``recsys …`` with one test's settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.environment = {
            **os.environ,
            "RECSYS_STATE_DIR": str(settings.state_dir),
            "RECSYS_REDIS_PORT": str(settings.redis_port),
            "RECSYS_KAFKA_PORT": str(settings.kafka_port),
            "RECSYS_TRITON_GRPC_PORT": str(settings.triton_grpc_port),
            "RECSYS_API_PORT": str(settings.api_port),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "serving.supervisor", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *arguments: str) -> tuple[int, str]:
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=90)
        return process.returncode, said

    def status(self) -> dict[str, Any]:
        with self.start("status", "--json") as process:
            said, _ = process.communicate(timeout=30)
        return dict(json.loads(said))

    @property
    def redis(self) -> ServerState:
        """The first server of the supervisor's file: cheaper than asking ``recsys status``."""
        state = read_state(self.settings.run_dir)
        assert state is not None
        return state.servers[0]

    @property
    def supervisor(self) -> psutil.Process:
        pid = running_supervisor(self.settings.run_dir)
        assert pid is not None
        return psutil.Process(pid)

    def is_port_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.settings.host, self.settings.redis_port)) == 0


@pytest.fixture
def recsys(own_settings: Settings) -> Iterator[Recsys]:
    runner = Recsys(own_settings)
    yield runner
    runner("down")


def _eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not claim():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def test_up_and_down_twice(recsys: Recsys) -> None:
    code, said = recsys("up", "--only", "redis")
    assert code == 0, said
    first = recsys.supervisor.pid
    assert resolve(recsys.settings).redis_url == f"redis://127.0.0.1:{recsys.settings.redis_port}/0"
    code, said = recsys("up", "--only", "redis")
    assert (code, recsys.supervisor.pid) == (0, first)
    assert "already running" in said
    status = recsys.status()
    assert status["ready"]
    assert status["servers"][0]["answers"]
    assert recsys("logs", "redis", "-n", "1")[0] == 0

    code, said = recsys("down")
    assert (code, "all stopped" in said) == (0, True)
    assert not recsys.is_port_open()
    assert not is_running(first)
    assert not endpoints_file(recsys.settings).exists()
    code, said = recsys("down")
    assert (code, "nothing was running" in said) == (0, True)
    assert recsys("status")[0] == 3


def test_a_killed_server_is_started_again_and_counted(recsys: Recsys) -> None:
    assert recsys("up", "--only", "redis")[0] == 0
    with redis.Redis(port=recsys.settings.redis_port) as client:
        client.set("answer", "42")
    for kills in (1, 2):
        pid = recsys.redis.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        _eventually(lambda: recsys.redis.restarts == kills)  # noqa: B023
        _eventually(lambda: recsys.redis.phase == "ready")
    assert recsys.status()["servers"][0]["restarts"] == 2
    with redis.Redis(port=recsys.settings.redis_port) as client:
        assert client.get("answer") == b"42"


def test_servers_die_with_a_killed_supervisor_and_up_begins_anew(recsys: Recsys) -> None:
    assert recsys("up", "--only", "redis,triton")[0] == 0
    supervisor = recsys.supervisor
    children = supervisor.children(recursive=True)
    assert {child.name() for child in children} >= {"tritonserver"}
    supervisor.kill()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    code, said = recsys("status")
    assert (code, "was killed" in said) == (3, True)
    code, said = recsys("up", "--only", "redis,triton")
    assert code == 0, said


def test_down_after_a_killed_supervisor_clears_up(recsys: Recsys) -> None:
    assert recsys("up", "--only", "redis")[0] == 0
    # One that outlived its supervisor, as a model's process of Triton may.
    environment = {**os.environ, "RECSYS_SUPERVISED_IN": str(recsys.settings.run_dir.absolute())}
    with subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True) as orphan:
        recsys.supervisor.kill()
        code, said = recsys("down")
        assert orphan.wait(10) == -signal.SIGKILL
    assert code == 0
    assert "left behind" in said
    assert not endpoints_file(recsys.settings).exists()


def test_a_recorded_pid_that_is_another_process_now_is_left_alone(recsys: Recsys) -> None:
    assert recsys("up", "--only", "redis")[0] == 0
    recsys.supervisor.kill()
    path = recsys.settings.run_dir / "supervisor.json"
    _eventually(lambda: running_supervisor(recsys.settings.run_dir) is None)
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        state = json.loads(path.read_text())
        state["servers"][0]["pid"] = stranger.pid
        path.write_text(json.dumps(state))
        recsys("down")
        assert stranger.poll() is None
        stranger.kill()


def test_of_two_ups_one_starts_and_the_other_waits_for_it(recsys: Recsys) -> None:
    both = [recsys.start("up", "--only", "redis") for _ in range(2)]
    said = [process.communicate(timeout=90)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert running_supervisor(recsys.settings.run_dir) is not None
    assert recsys.redis.restarts == 0


def test_a_taken_port_is_one_line(recsys: Recsys) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", recsys.settings.redis_port))
        holder.listen()
        code, said = recsys("up", "--only", "redis")
    assert code == 2
    [line] = said.strip().splitlines()
    assert line.startswith(f"recsys up: redis wanted port {recsys.settings.redis_port}")
    assert "RECSYS_REDIS_PORT" in line
    assert running_supervisor(recsys.settings.run_dir) is None


def test_a_server_that_never_starts_fails_up_with_its_last_lines(recsys: Recsys) -> None:
    damaged = recsys.settings.state_dir / "redis" / "appendonlydir"
    damaged.mkdir(parents=True)
    (damaged / "appendonly.aof.manifest").write_text("nonsense\n")
    code, said = recsys("up", "--only", "redis")
    assert code == 2
    assert "redis wanted to start, found 3 times: ended with exit code 1" in said
    assert "manifest" in said
    assert running_supervisor(recsys.settings.run_dir) is None
    assert not recsys.is_port_open()


def test_your_own_redis_is_used_and_not_stopped(recsys: Recsys, redis_url: str) -> None:
    recsys.environment["REDIS_URL"] = redis_url
    code, said = recsys("up", "--only", "redis")
    assert code == 0, said
    assert recsys.status()["servers"][0]["external"]
    recsys("down")
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
    recsys.environment["REDIS_URL"] = "redis://127.0.0.1:1"
    code, said = recsys("up", "--only", "redis")
    assert (code, "REDIS_URL wanted a redis server" in said) == (2, True)


def test_foreground_stops_on_ctrl_c(recsys: Recsys) -> None:
    with recsys.start("up", "--only", "redis", "--foreground") as process:
        _eventually(recsys.is_port_open)
        _eventually(lambda: recsys.redis.phase == "ready")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not recsys.is_port_open()


def test_an_unknown_server_is_told(recsys: Recsys) -> None:
    code, said = recsys("up", "--only", "redis,memcached")
    assert (code, "found memcached" in said) == (2, True)
    code, said = recsys("up", "--only", "api")
    assert (code, "api wanted redis" in said) == (2, True)


def test_the_pause_before_a_restart_doubles_up_to_a_cap() -> None:
    policy = RestartPolicy(initial_s=0.5, cap_s=30)
    assert [policy.delay_s(failures) for failures in (1, 2, 3, 7, 50)] == [0.5, 1, 2, 30, 30]


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from serving.supervisor.state import *\n"
        "handle = take_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    assert running_supervisor(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert running_supervisor(tmp_path) == holder.pid
        assert take_lock(tmp_path) is None
        holder.kill()
    assert running_supervisor(tmp_path) is None
    lock = take_lock(tmp_path)
    assert lock is not None
    lock.close()
