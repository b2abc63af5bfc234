"""``python -m tests.feast_universal FEAST_SOURCE [pytest's options]``: Feast's suite on our stores.

``FEAST_SOURCE`` is a checkout of Feast at the release that is installed. Its ``sdk/python/tests``
are copied next to our stores' configuration and run there, with the installed Feast and an embedded
Redis of their own, so that nothing of the checkout's own ``feast`` package is imported.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from recsys.errors import ConfigurationError
from serving.embedded.redis import redis_launch
from tests import servers

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PACKAGES = ROOT / "build" / "feast_universal"
_WRITES = "tests/integration/offline_store/test_offline_write.py"
_PUSHES = "tests/integration/offline_store/test_push_features_to_offline_store.py"
RUNS = (
    ("Default", ("tests/universal/offline_store", "tests/universal/online_store")),
    # Apart: the first takes this folder's conftest as a plug-in, which pytest allows once.
    ("Default", (_WRITES, _PUSHES)),
    ("Keeping", ("tests/universal/online_store",)),
)
"""The online store (see ``recsys_feast_stores.py``), and what is put to it."""
LEFT_OUT = "tests/universal/offline_store/test_dqm_validation.py"
"""Wants great_expectations before 1.0, which does not go with the NumPy and pandas of the lock."""
_RELEASE = re.compile(r"^# \[?(\d+\.\d+\.\d+)", re.M)


def feast_tests(source: str) -> Path:
    """Give the folder ``sdk/python`` of a checkout.

    Raises:
        ConfigurationError: none was named, it is no checkout, or one of another release.
    """
    wanted = version("feast")
    get = (
        f"git clone --branch v{wanted} --depth 1 https://github.com/feast-dev/feast, and then "
        "make verify-feast FEAST_SOURCE=path/to/feast"
    )
    if not source:
        raise ConfigurationError(
            f"wanted FEAST_SOURCE, a checkout of Feast {wanted}, found none: {get}"
        )
    python = Path(source, "sdk", "python")
    if not (python / "tests" / "universal").is_dir():
        raise ConfigurationError(
            f"wanted a checkout of Feast {wanted} in FEAST_SOURCE, found no "
            f"sdk/python/tests/universal in {source} (a source distribution has no tests): {get}"
        )
    changes = Path(source, "CHANGELOG.md")
    found = _RELEASE.search(changes.read_text()) if changes.is_file() else None
    if found is None or found[1] != wanted:
        raise ConfigurationError(
            f"wanted Feast {wanted}, the installed one, in FEAST_SOURCE; found "
            f"{found[1] if found else 'no release'} in {changes}: "
            f"git -C {source} checkout v{wanted}"
        )
    return python


def run(python: Path, options: list[str]) -> int:
    """Put the suites of ``sdk/python`` to our stores; give the worst of pytest's exit statuses."""
    _install()
    servers.begin_session()
    try:
        redis = servers.shared_server("redis", redis_launch)
        with tempfile.TemporaryDirectory(prefix="feast_universal_") as name:
            work = Path(name)
            _lay_out(python, work)
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(work), str(PACKAGES)]),
                "FULL_REPO_CONFIGS_MODULE": "recsys_feast_stores",
                "FEAST_IS_LOCAL_TEST": "True",  # no stores of clouds
                "IS_TEST": "True",
                "TMPDIR": str(work / "temporary"),  # Feast's tests leave files behind
                "FEAST_SUITE_REDIS": f"{redis.host}:{redis.redis_port},db=0",
            }
            return max(
                _pytest(work, suites, options, {**environment, "FEAST_SUITE_ONLINE": online})
                for online, suites in RUNS
            )
    finally:
        servers.end_session(None)


def _pytest(
    work: Path, suites: tuple[str, ...], options: list[str], environment: dict[str, str]
) -> int:
    there = [suite for suite in suites if (work / suite).exists()]
    if not there:
        sys.stdout.write(f"this Feast has no {', '.join(suites)}\n")
        return 0
    conftests = (work / "tests").rglob("conftest.py")
    flag = ["--integration"] if any("--integration" in c.read_text() for c in conftests) else []
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *flag, "-m", "integration", "-rfEsxX", "-q"),
            *("-p", "recsys_feast_differences", "-p", "no:cacheprovider"),
            *(f"--ignore={LEFT_OUT}", *there, *options),
        ],
        cwd=work,
        env=environment,
        check=False,
    ).returncode


def _install() -> None:
    """What Feast's tests import and we do not, in a folder beside the environment."""
    subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "pip", "install", "--quiet"),
            *("--python", sys.executable, "--target", PACKAGES),
            *("-r", HERE / "requirements.txt"),
        ],
        check=True,
    )


def _lay_out(python: Path, work: Path) -> None:
    """Feast's tests as the package ``tests``, our stores, and our library, in one folder."""
    shutil.copytree(python / "tests", work / "tests")
    (work / "tests" / "__init__.py").touch()
    if (python / "pytest.ini").is_file():
        shutil.copy(python / "pytest.ini", work)
    for module in ("recsys_feast_stores.py", "recsys_feast_differences.py"):
        shutil.copy(HERE / module, work)
    (work / "temporary").mkdir()
    (work / "recsys").symlink_to(ROOT / "recsys")


def main(argv: list[str]) -> int:
    """Check the checkout, run, say nothing that pytest does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a checkout of Feast")
    options, others = parser.parse_known_args(argv)
    try:
        python = feast_tests(options.source)
    except ConfigurationError as error:
        sys.stderr.write(f"verify-feast: {error}\n")
        return 2
    return run(python, others)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
