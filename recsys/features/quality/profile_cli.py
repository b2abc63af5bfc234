"""``recsys features profile --out FILE.html``: every feature drawn, on one page.

Reads a sample of the online store (now), the event log (all entities, at ``--at``), or both laid
over each other, and writes counts, nulls, ranges, quantiles, freshness, histograms and what became
of the declared expectations. The page needs no network. Exit code 0 when it is written, 2 when not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recsys.endpoints import resolve
from recsys.errors import ConfigurationError, RecsysError
from recsys.features import current_plan
from recsys.features.plan import Plan
from recsys.features.quality.moments import parse_moment
from recsys.features.quality.online_sample import sample
from recsys.features.quality.profile import Source, profile
from recsys.features.quality.profile_page import page
from recsys.features.quality.snapshot import values_at
from recsys.features.view import View
from recsys.settings import Settings

_SAMPLE, _SCANNED = 10_000, 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; 0 when it is there, 2 when it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="recsys features profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html")
    parser.add_argument("--view", action="append", help="only this one; may be repeated")
    parser.add_argument("--at", metavar="TIME", help="ISO 8601 (UTC) or epoch ms; default now")
    parser.add_argument(
        "--source", choices=["store", "log", "both"],
        help="default: the store, or the log when --at is given",
    )  # fmt: skip
    parser.add_argument(
        "--sample", type=int, default=_SAMPLE, metavar="N",
        help=f"entities of each kind read from the store at most (default {_SAMPLE:,})",
    )  # fmt: skip
    parser.add_argument(
        "--max-scanned", type=int, default=_SCANNED, metavar="N",
        help=f"keys of the store looked at, at most (default {_SCANNED:,})",
    )  # fmt: skip
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        moment_ms = parse_moment(options.at or "now")
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        views = [plan.view(name) for name in options.view or ()] or list(plan.views)
        chosen = options.source or ("log" if options.at else "store")
        sources: list[Source] = []
        notes: list[str] = []
        if chosen in ("store", "both"):
            _add(*_of_store(settings, plan, views, moment_ms, options), sources, notes)
        if chosen in ("log", "both"):
            snapshot = values_at(settings.event_log_dir, plan, moment_ms)
            note = f"all entities of {settings.event_log_dir}, at that moment"
            _add(Source(name="event log", views=snapshot), note, sources, notes)
        profiles = profile(plan, sources, moment_ms, views=views)
        _write(options.out, page(plan.project, moment_ms, sources, notes, profiles))
    except RecsysError as error:
        sys.stderr.write(f"recsys features profile: {error}\n")
        return 2
    failed = sum(p.num_failed for p in profiles)
    num_features = sum(len(p.features) for p in profiles)
    sys.stdout.write(
        f"{options.out}: {len(profiles)} views, {num_features} features, {failed} rules failed\n"
    )
    return 0


def _add(source: Source, note: str, sources: list[Source], notes: list[str]) -> None:
    sources.append(source)
    notes.append(note)


def _of_store(
    settings: Settings, plan: Plan, views: Sequence[View], now_ms: int, options: argparse.Namespace
) -> tuple[Source, str]:
    found = sample(
        plan, resolve(settings).require_redis(), now_ms, views=views,
        max_entities=options.sample, max_scanned=options.max_scanned,
    )  # fmt: skip
    extent = (
        "all entities" if found.complete else f"a sample of at most {options.sample:,} entities"
    )
    note = f"{extent} of each kind, as served at that moment; {found.num_scanned:,} keys looked at"
    return Source(name="online store", views=found.views, is_sample=not found.complete), note


def _write(path: Path, text: str) -> None:
    """Write in one step, so that a page is whole or absent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"wanted to write {path}, found: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
