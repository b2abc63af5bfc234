"""``recsys pipeline run | status | schedule | render | track``: from the log to a live bundle.

One TOML file (``--file``) says what to do; flags win over it. Progress goes to standard error, or
as JSON lines to standard output; the last line of standard output is the result. Exit codes: 0
done, 1 the gate refused the bundle, 2 another error that is explained, 4 another run is at work,
143 and 130 stopped by SIGTERM and by Ctrl-C: the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from recsys.clock import now_ms
from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.signal_event import SignalEvent
from training.pipeline.definition import Definition, ScheduleRules, read_definition
from training.pipeline.gate import GateRefusedError
from training.pipeline.manifests import as_yaml, cron_line, kubernetes_manifests
from training.pipeline.one_run import BusyError
from training.pipeline.run import candidate_folder, run_pipeline
from training.pipeline.schedule import ChildRuns, Schedule
from training.pipeline.state import pipeline_folder
from training.pipeline.status import show_status
from training.pipeline.stop import Stop
from training.tracking.mirror import mirror_bundles

REFUSED, FAILED, BUSY = 1, 2, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    args = _arguments(argv)
    stop = Stop()
    stop.install()
    try:
        code: int = args.command(args)
    except SystemExit:
        if stop.code is None:
            raise
        return stop.code
    except GateRefusedError as error:
        sys.stderr.write(f"recsys pipeline: {error}\n")
        return REFUSED
    except BusyError as error:
        sys.stderr.write(f"recsys pipeline: {error}\n")
        return BUSY
    except RecsysError as error:
        sys.stderr.write(f"recsys pipeline: {error}\n")
        return FAILED
    return code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recsys pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run the chain, or what a killed run has left of it")
    _add_definition(run)
    run.add_argument("--fresh", action="store_true", help="begin anew where a run was killed")
    run.add_argument(
        "--dry-run", action="store_true",
        help="end with the gate: nothing is registered, nothing goes live",
    )  # fmt: skip
    run.add_argument("--json", action="store_true", help="progress as JSON lines")
    run.set_defaults(command=_run)
    status = commands.add_parser("status", help="what the latest run has done and who runs now")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(command=lambda args: show_status(Settings(), as_json=args.json))
    schedule = commands.add_parser("schedule", help="run whenever it is due, until stopped")
    _add_definition(schedule)
    _add_schedule(schedule)
    schedule.add_argument(
        "--drain-s", type=float, default=600.0,
        help="how long a run at work may go on after SIGTERM; it is taken up again later",
    )  # fmt: skip
    schedule.set_defaults(command=_schedule)
    render = commands.add_parser("render", help="the schedule as manifests or a cron line")
    render.add_argument("--file", type=Path, required=True, help="the definition, TOML")
    _add_schedule(render)
    kinds = render.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--kubernetes", action="store_true", help="a RayCronJob (KubeRay 1.6 on)")
    kinds.add_argument("--kubernetes-job", action="store_true", help="a CronJob, without KubeRay")
    kinds.add_argument("--cron-line", action="store_true", help="lines for a crontab")
    render.set_defaults(command=_render)
    track = commands.add_parser(
        "track", help="record in MLflow what it missed, and make its aliases the store's"
    )
    track.set_defaults(command=lambda _: _track(Settings()))
    return parser.parse_args(argv)


def _add_definition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, help="the definition, TOML")
    parser.add_argument("--recipe")
    parser.add_argument("--recipe-file", help="a recipe in TOML or JSON, instead of --recipe")
    parser.add_argument("--dataset")
    parser.add_argument("--test-from", help="first moment of the test (ISO 8601, UTC)")
    parser.add_argument("--features", choices=("joined", "logged"), help="of users in shown lists")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--workers", type=int, help="Ray Train workers")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--no-ray", action="store_true", help="fit in this process")
    parser.add_argument(
        "--from-files", action="store_true", help="read the data set's files, not the event log"
    )
    parser.add_argument(
        "--lease", choices=("redis", "file"), help="file: where only this machine runs it"
    )
    parser.add_argument("--publish", choices=("serve", "point", "no"))


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cron", help='five fields, as "0 3 * * *"')
    parser.add_argument("--time-zone", help="IANA name, such as Europe/Berlin; default UTC")
    parser.add_argument(
        "--catch-up", choices=("skip", "once", "all"), help="what becomes of missed runs"
    )
    parser.add_argument("--max-catch-up", type=int, help="with all: the latest so many")


def _with_schedule(definition: Definition, args: argparse.Namespace) -> Definition:
    given = {
        "cron": args.cron, "time_zone": args.time_zone, "catch_up": args.catch_up,
        "max_catch_up": args.max_catch_up,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    rules = definition.schedule.model_dump() | changes
    return definition.model_copy(update={"schedule": ScheduleRules.model_validate(rules)})


def definition_of(args: argparse.Namespace) -> Definition:
    """Give the definition that file and flags make together."""
    return read_definition(
        args.file,
        {
            "recipe": args.recipe,
            "recipe_file": args.recipe_file,
            "dataset": args.dataset,
            "test_from": args.test_from,
            "features": args.features,
            "seed": args.seed,
            "workers": args.workers,
            "device": args.device,
            "ray": False if args.no_ray else None,
            "from_files": True if args.from_files else None,
            "lease": args.lease,
            "publish": args.publish,
        },
    )


def _run(args: argparse.Namespace) -> int:
    settings = Settings()
    ran = run_pipeline(
        definition_of(args), settings, console=Console(stderr=True, highlight=False),
        now_ms=now_ms(), json_lines=args.json, fresh=args.fresh, dry_run=args.dry_run,
        afterwards=lambda journal: journal.tell("said", text=mirror_bundles(settings).said()),
    )  # fmt: skip
    result = {
        "run": ran.run, "bundle_id": ran.bundle_id, "passed": ran.passed, "live": ran.live,
        "folder": candidate_folder(ran),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if ran.passed else REFUSED


def _schedule(args: argparse.Namespace) -> int:
    definition = _with_schedule(definition_of(args), args)
    definition.full_recipe()
    stop = SignalEvent()
    runs = ChildRuns(_run_arguments(args), drain_s=args.drain_s)

    def told_to_stop(number: int, _: object) -> None:
        del number
        stop.set()
        runs.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told_to_stop)
    console = Console(stderr=True, highlight=False)
    Schedule(
        definition.schedule, pipeline_folder(Settings()), run=runs.run, clock_ms=now_ms,
        say=console.print, stop=stop,
    ).forever()  # fmt: skip
    return 0


def _run_arguments(args: argparse.Namespace) -> list[str]:
    """Give the definition's flags as they were given."""
    found: list[str] = []
    for name, value in (
        ("--file", args.file), ("--recipe", args.recipe), ("--recipe-file", args.recipe_file),
        ("--dataset", args.dataset), ("--test-from", args.test_from), ("--features", args.features),
        ("--seed", args.seed), ("--workers", args.workers), ("--device", args.device),
        ("--lease", args.lease),
        ("--publish", args.publish),
    ):  # fmt: skip
        if value is not None:
            found += [name, str(value)]
    found += ["--no-ray"] if args.no_ray else []
    found += ["--from-files"] if args.from_files else []
    return found


def _render(args: argparse.Namespace) -> int:
    definition = _with_schedule(read_definition(args.file, {}), args)
    if args.cron_line:
        executable = shutil.which("recsys") or "recsys"
        text = cron_line(
            definition, file=args.file, executable=executable, state_dir=Settings().state_dir
        )
    else:
        text = as_yaml(
            kubernetes_manifests(
                definition, args.file.read_text(),
                kind="RayCronJob" if args.kubernetes else "CronJob",
            )
        )  # fmt: skip
    sys.stdout.write(text)
    return 0


def _track(settings: Settings) -> int:
    done = mirror_bundles(settings)
    sys.stderr.write(done.said() + "\n")
    sys.stdout.write(json.dumps(vars(done)) + "\n")
    return FAILED if done.error else 0


if __name__ == "__main__":
    sys.exit(main())
