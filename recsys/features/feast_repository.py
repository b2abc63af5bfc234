"""Feast's commands on ``feature_repo``: it is applied, and compiled to the plan.

Usage::

    recsys features apply       # feast apply, then compile
    recsys features compile     # the plan alone, no registry
    recsys features env         # prints the exports Feast needs
    recsys features feast ui    # any Feast command, those set

``apply`` writes ``<state_dir>/feast.db``, Feast's registry, and ``<state_dir>/plan.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from recsys.errors import FeatureError, RecsysError
from recsys.features.current_plan import compiling, default_repository
from recsys.features.feast_declarations import compile_plan
from recsys.features.feast_environment import feast_environment
from recsys.features.plan import PLAN_FILE, Plan, load
from recsys.features.plan_history import PlanHistory
from recsys.settings import Settings


def apply(settings: Settings, repository: Path) -> Plan:
    """Register the declarations with Feast and write the plan."""
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    environment = feast_environment(settings, repository)
    os.environ.update(environment)
    with warnings.catch_warnings(), contextlib.chdir(repository):
        warnings.simplefilter("ignore")
        sys.path.insert(0, str(repository))  # Feast imports the declarations by their bare name
        try:
            config = load_repo_config(repository, Path(environment["FEAST_FS_YAML_FILE_PATH"]))
            apply_total(config, repository, skip_source_validation=True)
        finally:
            sys.path.remove(str(repository))
            for file in repository.glob("*.py"):  # so that another repository's are not these
                if getattr(sys.modules.get(file.stem), "__file__", None) == str(file):
                    del sys.modules[file.stem]
    plan = compile_plan(repository, project=settings.namespace)
    plan.dump(settings.state_dir / PLAN_FILE)
    return plan


def _run_feast(settings: Settings, repository: Path, arguments: list[str]) -> int:
    environment = os.environ | feast_environment(settings, repository)
    command = [str(Path(sys.executable).with_name("feast")), "--chdir", str(repository), *arguments]
    os.execve(command[0], command, environment)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded."""
    parser = argparse.ArgumentParser(prog="recsys features")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("apply", "register with Feast and compile the plan"),
        ("compile", "compile the plan"),
        ("env", "print the exports Feast needs"),
        ("feast", "run a Feast command with them"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--repository", type=Path, default=default_repository())
        if name == "compile":
            command.add_argument("--out", type=Path)
            command.add_argument("--project")
        if name == "feast":
            command.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    settings = Settings()
    repository: Path = options.repository.resolve()
    try:
        if options.command == "env":
            for name, value in feast_environment(settings, repository).items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
        elif options.command == "feast":
            return _run_feast(settings, repository, options.arguments)
        elif options.command == "apply":
            history = PlanHistory(settings.state_dir)
            with compiling(settings.state_dir):  # a worker that starts meanwhile waits for us
                with contextlib.suppress(FeatureError):
                    history.record(load(settings.state_dir / PLAN_FILE))
                plan = apply(settings, repository)
                history.record(plan)
            path = settings.state_dir / PLAN_FILE
            sys.stdout.write(f"applied {plan.project}; plan {plan.schema_hash} in {path}\n")
        else:
            plan = compile_plan(repository, project=options.project or settings.namespace)
            plan.dump(options.out or settings.state_dir / PLAN_FILE)
            sys.stdout.write(f"plan {plan.schema_hash}\n")
    except RecsysError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
