"""Fetches jars by Maven coordinates, by the user's own ``mvn`` or by the Python resolver ``jgo``.

Which jars, and the SHA-256 of each, is pinned in a lock beside this file; a jar that differs is
refused. Run ``python -m serving.embedded.maven`` to write the lock anew (``make lock`` does).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recsys.errors import ServerError
from serving.embedded.folder import Report

KAFKA_JARS_LOCK = Path(__file__).with_name("kafka_jars.lock")
KAFKA_VERSION = "4.3.1"
_ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",  # the broker's log, to standard error
)
_MVN_TIMEOUT_S = 240.0
_HTTP_TIMEOUT_S = 15
_PARALLEL_DOWNLOADS = 8


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned artefact."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Its name in a Maven repository and in our folder."""
        return f"{self.artifact}-{self.version}.jar"


def read_lock(path: Path) -> list[Jar]:
    """Read lines of ``group:artifact:version sha256``."""
    jars = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinates, digest = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, digest))
    return jars


def fetch_jars(jars: Sequence[Jar], target: Path, report: Report) -> None:
    """Put every jar into ``target``, each checked against its SHA-256.

    Raises:
        ServerError: no way to get them was found; says what each way met.
    """
    complaints = []
    if program := shutil.which("mvn"):
        report(f"fetching {len(jars)} jars with {program}")
        complaint = _fetch_with_mvn(program, jars, target) or _mismatch(jars, target)
        if complaint is None:
            return
        complaints.append(f"mvn: {complaint}")
    report(f"fetching {len(jars)} jars with jgo")
    complaint = _fetch_with_jgo(jars, target) or _mismatch(jars, target)
    if complaint is None:
        return
    complaints.append(f"jgo: {complaint}")
    raise ServerError(
        f"wanted {len(jars)} jars of {_ROOTS[0]}, found no way to fetch them "
        f"({'; '.join(complaints)}); check Maven's settings and the network, or set KAFKA_HOME to "
        "an unpacked Kafka"
    )


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mismatch(jars: Sequence[Jar], target: Path) -> str | None:
    for jar in jars:
        path = target / jar.filename
        if not path.is_file():
            return f"{jar.filename} is missing"
        if (found := sha256_of(path)) != jar.sha256:
            return f"{jar.filename} has SHA-256 {found}, the lock says {jar.sha256}"
    return None


def _fetch_with_mvn(program: str, jars: Sequence[Jar], target: Path) -> str | None:
    """Give what went wrong, or ``None``."""
    dependencies = "".join(
        f"<dependency><groupId>{jar.group}</groupId><artifactId>{jar.artifact}</artifactId>"
        f"<version>{jar.version}</version></dependency>"
        for jar in jars
    )
    project = target / "pom.xml"
    project.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>recsys</groupId><artifactId>jars</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
    )
    command = [
        program, "-q", "-B", "-ntp", "-f", str(project), "dependency:copy-dependencies",
        f"-Daether.connector.connectTimeout={_HTTP_TIMEOUT_S * 1000}",
        "-DexcludeTransitive=true", f"-DoutputDirectory={target}",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MVN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)[:200]
    finally:
        project.unlink()
    if done.returncode == 0:
        return None
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
    return (said[0] if said else f"exit code {done.returncode}")[:160]


def _fetch_with_jgo(jars: Sequence[Jar], target: Path) -> str | None:
    """Give what went wrong, or ``None``. What a former run left half-written is never used."""
    try:
        from jgo.config import GlobalSettings
    except ImportError as error:
        return str(error)
    cache = target / ".repository"
    try:
        own = GlobalSettings.load().repo_cache
        for local in ([own], []):  # the user's Maven repository first, read only
            context = _context(cache, local)
            pool = ThreadPoolExecutor(_PARALLEL_DOWNLOADS)
            try:
                paths = list(pool.map(partial(_resolve, context), jars))
            finally:  # the first failure is enough: the rest would wait for the same network
                pool.shutdown(cancel_futures=True)
            for jar, path in zip(jars, paths, strict=True):
                shutil.copyfile(path, target / jar.filename)
            if _mismatch(jars, target) is None:
                return None
    except Exception as error:  # noqa: BLE001  its resolver raises whatever its parts raise
        return f"{type(error).__name__}: {error}"[:160]
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    return None


def _context(cache: Path, local: Sequence[Path]) -> Any:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    return MavenContext(
        repo_cache=cache,
        local_repos=[path for path in local if path.is_dir()],
        # A mirror the user named in jgo's settings is asked first.
        remote_repos={**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL},
        timeout=_HTTP_TIMEOUT_S,
    )


def _resolve(context: Any, jar: Jar) -> Path:
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    return Path(component.artifact().resolve())


def _write_lock() -> None:
    """Resolve the roots and all they need, and pin what was found."""
    import jgo

    lines = []
    for artifact in jgo.resolve("+".join(_ROOTS)):
        digest = sha256_of(Path(artifact.resolve()))
        lines.append(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {digest}")
    KAFKA_JARS_LOCK.write_text(
        "# What the Kafka broker loads; written by `make lock`.\n" + "\n".join(sorted(lines)) + "\n"
    )
    sys.stderr.write(f"{KAFKA_JARS_LOCK}: {len(lines)} jars\n")


if __name__ == "__main__":
    _write_lock()
