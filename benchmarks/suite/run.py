"""``python -m benchmarks`` (``make bench``): run benchmarks one after the other, keep each result.

Each runs in a process of its own and its result is written to ``benchmarks/results/DATE/NAME.json``
as soon as it is there. A run that was interrupted, or in which one failed, is run again with the
same command: what was measured at this commit is not measured anew (``--again`` does). Without
names, all of ``suite/plan.py``. Each result also goes to standard output as a line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import machine
from benchmarks.suite.plan import PLAN, RUN_ALONE, Benchmark
from benchmarks.suite.record import Record, is_done, write
from benchmarks.suite.servers import PreparedSystem, Servers, closing_down
from recsys.errors import InputError, RecsysError, ServerError
from recsys.settings import Settings

ROOT = Path(__file__).parents[2]
_END_S = 30.0


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: to us alone, where Ctrl-C reaches the benchmark as well."""


def main(argv: Sequence[str]) -> int:
    """Measure; 0 when all have a result, 1 when one failed, 2 for a wrong call, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", help="benchmarks; without any, all")
    parser.add_argument("--into", type=Path, help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    options = parser.parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return _run(options)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _run(options: argparse.Namespace) -> int:
    folder = options.into or ROOT / "benchmarks" / "results" / time.strftime(
        "%Y-%m-%d", time.gmtime()
    )
    try:
        wanted = chosen(options.names)
        folder.mkdir(parents=True, exist_ok=True)
        state_dir = Settings().state_dir / "bench"
        with (
            _alone(folder),
            closing_down(Servers(state_dir)) as servers,
            closing_down(PreparedSystem(state_dir / "system")) as system,
        ):

            def measured(benchmark: Benchmark) -> Record:
                if not benchmark.with_servers:
                    servers.stop()
                if not benchmark.with_system:
                    system.stop()
                given = servers.environment() if benchmark.with_servers else dict(os.environ)
                state = system.state_dir() if benchmark.with_system else None
                return measure(benchmark, given, state)

            return run_all(wanted, folder, measured, again=options.again)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on with what is left\n")
        return 130


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """Give the named benchmarks, or all. Raises InputError for a name that is none."""
    known = {benchmark.name: benchmark for benchmark in PLAN}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(
            f"no benchmark {unknown}; there are {list(known)}; these want a data set, other "
            "services or half an hour and are run as `python -m benchmarks.NAME`: "
            f"{list(RUN_ALONE)}"
        )
    return [known[name] for name in names] or list(PLAN)


def run_all(
    wanted: Sequence[Benchmark],
    folder: Path,
    measured: Callable[[Benchmark], Record],
    *,
    again: bool = False,
) -> int:
    """Measure what ``folder`` has no result of; 0 when all are there, 1 when some failed."""
    failed = []
    for benchmark in wanted:
        command, commit = command_of(benchmark), machine.commit()
        if not again and is_done(folder, benchmark.name, command, commit):
            sys.stderr.write(f"{benchmark.name}: measured already at {commit}\n")
            continue
        sys.stderr.write(f"{benchmark.name}: {command}\n")
        try:
            record = measured(benchmark)
        except RecsysError as error:
            failed.append(benchmark.name)
            sys.stderr.write(f"{benchmark.name}: {error}\n")
            continue
        write(folder, record)
        sys.stdout.write(json.dumps(record.result) + "\n")
        sys.stdout.flush()
        sys.stderr.write(f"{benchmark.name}: {record.took_s:.0f} s\n")
    if failed:
        sys.stderr.write(f"without a result: {failed}; the same command tries them again\n")
    return 1 if failed else 0


def command_of(benchmark: Benchmark) -> str:
    """Give what is run, for the record and for a reader."""
    state = ("--state", "DIR") if benchmark.with_system else ()
    return " ".join(["python -m", f"benchmarks.{benchmark.name}", *benchmark.arguments, *state])


def measure(
    benchmark: Benchmark, environment: Mapping[str, str], state_dir: Path | None = None
) -> Record:
    """Run it in a process of its own. Raises ServerError when it fails or prints no result."""
    state = () if state_dir is None else ("--state", str(state_dir))
    described, began = machine.describe(), datetime.datetime.now(datetime.UTC)
    start = time.perf_counter()
    arguments = (f"benchmarks.{benchmark.name}", *benchmark.arguments, *state)
    process = None
    try:
        with _signals_wait():
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        printed, _ = process.communicate()
    except _Terminated:
        if process is not None:
            process.send_signal(signal.SIGINT)
        raise
    finally:
        if process is not None:
            _end(process)
    if process.returncode:
        raise ServerError(f"wanted it to work, found exit code {process.returncode}; see above")
    result = _last_line(printed)
    return Record(
        benchmark=benchmark.name, command=command_of(benchmark), commit=machine.commit(),
        date=began.date().isoformat(), started_at=began.isoformat(timespec="seconds"),
        took_s=round(time.perf_counter() - start, 1), seed=result.get("seed"), machine=described,
        versions=machine.versions(), result=result,
    )  # fmt: skip


def _last_line(printed: str) -> dict[str, Any]:
    lines = [line for line in printed.splitlines() if line.strip()]
    with contextlib.suppress(ValueError, IndexError):
        result = json.loads(lines[-1])
        if isinstance(result, dict):
            return result
    raise ServerError(f"wanted a line of JSON as the last, found {lines[-1:] or 'nothing'}")


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """What would interrupt us does so at the end: a process half started is known to nobody."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _end(process: subprocess.Popen[str]) -> None:
    """One that was interrupted has a while to stop what it started."""
    try:
        process.wait(_END_S if process.poll() is None else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two that measure at once measure each other. Raises InputError for the second."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"wanted to measure alone, found another run writing to {folder.name}; wait for it"
            ) from error
        yield
    finally:
        os.close(handle)
