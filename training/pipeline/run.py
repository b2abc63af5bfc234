"""One run from lease to outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import redis
from rich.console import Console

from recsys.bundle.store import BundleStore
from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.features.redis_hashes import connect
from recsys.settings import Settings
from training.pipeline.chain import Chain
from training.pipeline.definition import Definition
from training.pipeline.engine import run_steps
from training.pipeline.gate import GateRefusedError, as_table, from_json
from training.pipeline.journal import Journal, read_journal
from training.pipeline.judging_steps import BUNDLE, GATE_FILE
from training.pipeline.one_run import Turn, note_of, turn_by_file, turn_in_redis
from training.pipeline.outputs import Output, Outputs
from training.pipeline.retry import RetryConfig
from training.pipeline.state import (
    RunState,
    definition_hash,
    journal_path,
    new_run_name,
    outputs_folder,
    pipeline_folder,
    read_state,
    to_resume,
    write_state,
)
from training.pipeline.stop import kept
from training.progress import Progress
from training.source import present_positions

_KEPT_JOURNALS = 200


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a run."""

    run: str
    bundle_id: str
    passed: bool
    """Whether the gate lets it go live."""
    live: str | None
    outputs: dict[str, Output]


def run_pipeline(
    definition: Definition,
    settings: Settings,
    *,
    console: Console,
    now_ms: int,
    json_lines: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    afterwards: Callable[[Journal], None] = lambda _: None,
) -> Ran:
    """Run all steps, or those that a killed run has left.

    Args:
        definition: What to do.
        settings: Where things are.
        console: Shows progress.
        now_ms: The present, epoch ms.
        json_lines: Progress goes to standard output as JSON lines instead.
        fresh: Begin anew even where a run was killed.
        dry_run: End with the gate: nothing is registered, nothing goes live.
        afterwards: Called with the journal when all is done; what it does is no part of the run.

    Raises:
        BusyError: when another run is at work; names it.
        GateRefusedError: when the bundle is not good enough; says in which figures.
        RecsysError: what else can be explained.
    """
    definition.full_recipe()  # a mistake in it is said before anything is waited for
    latest = None if fresh else to_resume(read_state(settings), definition, now_ms=now_ms)
    name = latest.run if latest else new_run_name(now_ms)
    with _turn(definition, settings, name) as turn:
        # Whoever held the lease may have finished between the look above and now.
        latest = None if fresh else to_resume(read_state(settings), definition, now_ms=now_ms)
        state = latest or _new_state(definition, settings, name, now_ms)
        write_state(settings, state)
        journal = Journal(journal_path(settings, state.run), console=console, json_lines=json_lines)
        what = "goes on where it was killed" if latest else f"recipe {definition.recipe}"
        journal.tell("run_started", what=what, fence=turn.fence, resumed=latest is not None)
        try:
            ran = _steps(definition, settings, state, turn, journal, console, dry_run)
        except GateRefusedError as error:
            journal.tell("run_refused", error=str(error))
            _end(definition, settings, state, "refused", str(error))
            raise
        except Exception as error:
            journal.tell("run_failed", error=f"{type(error).__name__}: {error}")
            _end(definition, settings, state, "failed", str(error))
            raise
        except BaseException:  # asked to stop: the run is to be taken up again
            journal.tell("run_stopped", kept=kept(read_journal(journal.path)))
            raise
        write_state(
            settings, state.model_copy(update={"outcome": "done", "bundle_id": ran.bundle_id})
        )
        journal.tell(
            "run_done", what=f"bundle {ran.bundle_id}, live {ran.live}", bundle_id=ran.bundle_id,
            live=ran.live,
        )  # fmt: skip
        _prune(settings, definition.keep_runs)
        afterwards(journal)
    return ran


def _steps(
    definition: Definition,
    settings: Settings,
    state: RunState,
    turn: Turn,
    journal: Journal,
    console: Console,
    dry_run: bool,
) -> Ran:
    chain = Chain(
        definition, settings, state.pins, fence=turn.fence, progress=Progress(quiet=True)
    )  # fmt: skip
    outputs = Outputs(outputs_folder(settings))
    retry = RetryConfig(attempts=definition.attempts)
    steps = chain.steps()
    until_gate = chain.steps(until_gate=True)
    done = run_steps(until_gate, outputs, journal, check=turn.check, retry=retry)
    gate = json.loads((done["gate"].path / GATE_FILE).read_bytes())
    console.print(as_table(f"gate of bundle {gate['bundle_id']}", from_json(gate["checks"])))
    if not dry_run:
        done = run_steps(
            steps[len(until_gate) :], outputs, journal, check=turn.check, retry=retry, done=done
        )
    live = BundleStore(settings.bundle_dir).live()
    if "publish" in done and live != gate["bundle_id"]:
        journal.tell(
            "said",
            text=f"{gate['bundle_id']} has been live and is not any more: {live} stays; "
            f"`recsys publish {gate['bundle_id']}` brings it back",
        )
    return Ran(
        run=state.run, bundle_id=gate["bundle_id"], passed=gate["passed"], outputs=done,
        live=live,
    )  # fmt: skip


def _new_state(
    definition: Definition, settings: Settings, name: str, now_ms: int
) -> RunState:  # fmt: skip
    store = BundleStore(settings.bundle_dir)
    return RunState(
        run=name, definition=definition_hash(definition), started_ms=now_ms, outcome="running",
        positions={} if definition.from_files else present_positions(settings),
        champion=store.live(), before=store.before(),
    )  # fmt: skip


def _end(
    definition: Definition, settings: Settings, state: RunState, outcome: str, error: str
) -> None:
    write_state(settings, state.model_copy(update={"outcome": outcome, "error": error}))
    with suppress(OSError):  # what went wrong first is what is told
        _prune(settings, definition.keep_runs)


@contextmanager
def _turn(definition: Definition, settings: Settings, run: str) -> Iterator[Turn]:
    if definition.lease == "file":
        with turn_by_file(pipeline_folder(settings), note=note_of(run)) as turn:
            yield turn
        return
    try:
        client = connect(resolve(settings).require_redis())
    except redis.RedisError as error:
        raise RecsysError(f"Redis does not answer: {error}; check REDIS_URL") from error
    with turn_in_redis(client, settings.namespace, note=note_of(run)) as turn:
        yield turn


def _prune(settings: Settings, keep_runs: int) -> None:
    """Keep what the latest runs made, reused or had begun, and the latest that came to its end.

    Runs that end badly night after night leave no more than that either.
    """
    journals = sorted(journal_path(settings, "x").parent.glob("*.jsonl"), reverse=True)
    for old in journals[_KEPT_JOURNALS:]:
        old.unlink(missing_ok=True)
    told = {path: list(read_journal(path)) for path in journals[:_KEPT_JOURNALS]}
    done = [p for p, events in told.items() if any(e["event"] == "run_done" for e in events)]
    keep = {
        (event["step"], event["key"])
        for path in {*journals[:keep_runs], *done[:1]}
        for event in told[path]
        if event["event"] in ("step_started", "step_done", "step_reused")
    }
    Outputs(outputs_folder(settings)).prune(keep)


def candidate_folder(ran: Ran) -> str:
    """Give where the judged bundle lies, whether it was registered or not."""
    return str(ran.outputs["evaluate"].path / BUNDLE)
