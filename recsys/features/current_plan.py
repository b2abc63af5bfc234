"""The plan of the declarations as they are now: compiled anew when those changed.

``plan.py`` says what a plan is; this module finds the declarations, tells whether a plan is of
them, and lets one process at a time compile them, in a child that imports Feast.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from recsys.errors import ConfigurationError, FeatureError
from recsys.features.plan import PLAN_FILE, Plan, load
from recsys.features.plan_history import PlanHistory
from recsys.features.view import PLAN_VERSION


def default_repository() -> Path:
    """Give the ``feature_repo`` folder beside this package."""
    return Path(__file__).resolve().parent.parent.parent / "feature_repo"


def definitions_hash(repository: Path) -> str:
    """Give a hash of the declarations in ``repository``, without importing them.

    Raises:
        ConfigurationError: when there are none.
    """
    files = sorted(repository.glob("*.py"))
    if not files:
        raise ConfigurationError(
            f"wanted Feast declarations (*.py) in {repository}, found none; "
            "install from a source tree, or name yours with `recsys features apply --repository`"
        )
    digest = hashlib.sha256(f"{PLAN_VERSION}".encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def compiling(state_dir: Path) -> Iterator[None]:
    """Let one process at a time compile the plan of a state folder; the others wait here."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "plan.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a kill
        yield


def ensure(state_dir: Path, *, project: str, repository: Path | None = None) -> Plan:
    """Give the plan of ``repository``, compiled anew (5 to 10 s) when its declarations changed.

    Compiling happens in a child process, so that this one never imports Feast. Processes that
    start together wait for the first of them.

    Raises:
        ConfigurationError: when the declarations cannot be compiled.
    """
    repository = repository or default_repository()
    path = state_dir / PLAN_FILE
    plan = _up_to_date(path, project, repository)
    if plan is None:
        with compiling(state_dir):
            plan = _up_to_date(path, project, repository)
            if plan is None:
                history = PlanHistory(state_dir)
                with contextlib.suppress(FeatureError):
                    history.record(load(path))
                _compile(path, project, repository)
                plan = load(path)
                history.record(plan)
    return plan


def _up_to_date(path: Path, project: str, repository: Path) -> Plan | None:
    try:
        plan = load(path)
    except FeatureError:
        return None  # absent or of an older version
    fits = plan.project == project and plan.definitions_hash == definitions_hash(repository)
    return plan if fits else None


def _compile(path: Path, project: str, repository: Path) -> None:
    command = [
        sys.executable, "-m", "recsys.features.feast_repository", "compile",
        "--repository", str(repository), "--out", str(path), "--project", project,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigurationError(
            f"the declarations in {repository} do not compile:\n{done.stderr.strip()[-2000:]}"
        )
