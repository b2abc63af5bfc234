"""Whether a bundle may go live: floors, baselines, the champion, calibration, compression.

Each is a row of one table with what was wanted and what was found, so a refusal explains itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from recsys.errors import RecsysError
from recsys.evaluation.report_document import Against
from training.pipeline.definition import GateBounds


class GateRefusedError(RecsysError):
    """A bundle is not good enough to be registered; the live one stays."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row."""

    what: str
    wanted: str
    found: str
    passed: bool


def judge(metrics: Mapping[str, Any], bounds: GateBounds, champion: Against | None) -> list[Check]:
    """Hold a bundle's metrics to the bounds.

    Args:
        metrics: ``Manifest.metrics``.
        bounds: What is wanted.
        champion: The report's comparison with the live bundle, or why there is none; None where
            nothing else is live.
    """
    views: Mapping[str, Any] = metrics.get("views", {})
    if not views:
        said = str(metrics.get("note", "no view"))
        return [Check(what="evaluation", wanted="at least one view", found=said, passed=False)]
    return [
        *_floors(views, bounds),
        *_baselines(views, bounds, metrics.get("k")),
        *_champion(bounds, champion, metrics.get("k")),
        *_calibration(metrics, bounds),
        *_compression(metrics),
    ]


def passed(checks: list[Check]) -> bool:
    """Say whether every check was passed."""
    return all(check.passed for check in checks)


def as_table(title: str, checks: list[Check]) -> Table:
    """Give the rows as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    for name in ("", "check", "wanted", "found"):
        table.add_column(name)
    for check in checks:
        mark = "[green]ok[/green]" if check.passed else "[red]no[/red]"
        table.add_row(mark, *map(escape, (check.what, check.wanted, check.found)))
    return table


def refusal(checks: list[Check]) -> str:
    """Give what failed in a sentence."""
    failed = [f"{c.what}: wanted {c.wanted}, found {c.found}" for c in checks if not c.passed]
    return "; ".join(failed)


def as_json(checks: list[Check]) -> list[dict[str, Any]]:
    """Give plain values."""
    return [asdict(check) for check in checks]


def from_json(rows: list[dict[str, Any]]) -> list[Check]:
    """Read what ``as_json`` gave."""
    return [Check(**row) for row in rows]


def _floors(views: Mapping[str, Any], bounds: GateBounds) -> list[Check]:
    checks = []
    for name, least in bounds.floors.items():
        view, _, metric = name.partition(".")
        found = views.get(view, {}).get("served", {}).get(metric)
        if not isinstance(found, int | float):
            known = [f"{v}.{m}" for v, rows in views.items() for m in rows.get("served", {})]
            said = f"no such figure (found {', '.join(k for k in known if 'interval' not in k)})"
            checks.append(Check(what=f"floor {name}", wanted=_n(least), found=said, passed=False))
            continue
        checks.append(
            Check(
                what=f"floor {name}", wanted=f"{_n(least)} or more", found=_n(found),
                passed=found >= least,
            )
        )  # fmt: skip
    return checks


def _baselines(views: Mapping[str, Any], bounds: GateBounds, k: Any) -> list[Check]:
    checks = []
    for view, rows in views.items():
        for baseline in bounds.baselines:
            for metric in bounds.metrics:
                name = f"{metric}@{k}"
                served, rival = rows.get("served", {}).get(name), rows.get(baseline, {}).get(name)
                what = f"{baseline}, {view} {name}"
                if rival is None:
                    if baseline == "personal_frequency":
                        continue  # knows nothing but what the view of new items leaves out
                    said = f"no such recommender (found {', '.join(rows)})"
                    checks.append(Check(what=what, wanted=baseline, found=said, passed=False))
                    continue
                checks.append(
                    Check(
                        what=what, wanted=f"{_n(rival)} or more", found=_n(served),
                        passed=served is not None and served >= rival,
                    )
                )  # fmt: skip
    return checks


def _champion(bounds: GateBounds, champion: Against | None, k: Any) -> list[Check]:
    if champion is None:
        return []
    if champion.refused:
        return [
            Check(
                what=f"champion {champion.bundle_id}",
                wanted='a fair comparison, or `without_comparison = "pass"`',
                found=champion.refused,
                passed=bounds.without_comparison == "pass",
            )
        ]
    checks = []
    for view in champion.views:
        for metric in bounds.metrics:
            theirs, difference = view.theirs.get(metric), view.difference.get(metric)
            what = f"champion, {view.view} {metric}@{k}"
            if theirs is None or difference is None:
                if view.num_users:
                    said = f"no such figure (found {', '.join(view.difference)})"
                    checks.append(Check(what=what, wanted=metric, found=said, passed=False))
                continue
            margin = bounds.champion_margin * theirs.mean
            checks.append(
                Check(
                    what=what,
                    wanted=f"difference surely above {_n(-margin)}",
                    found=f"{difference.mean:+.4f} ({difference.low:+.4f} to "
                    f"{difference.high:+.4f}, {view.num_users} users, champion {_n(theirs.mean)})",
                    passed=difference.low >= -margin,
                )
            )
    return checks


def _calibration(metrics: Mapping[str, Any], bounds: GateBounds) -> list[Check]:
    if bounds.max_calibration_error is None:
        return []
    checks = []
    for name, row in metrics.get("probabilities", {}).items():
        if not isinstance(row, Mapping) or "expected_calibration_error" not in row:
            continue
        found = row["expected_calibration_error"]
        checks.append(
            Check(
                what=f"calibration error of {name}",
                wanted=f"{_n(bounds.max_calibration_error)} or less",
                found=_n(found),
                passed=found <= bounds.max_calibration_error,
            )
        )
    return checks


def _compression(metrics: Mapping[str, Any]) -> list[Check]:
    """Hold a compressed bundle to what its making found: each loss against its bound."""
    return [
        Check(
            what=f"compression, {loss['what']}",
            wanted=f"loss surely {_n(loss['bound'])} or less",
            found=f"{loss['loss']:+.4f} (worst {loss['worst']:+.4f})",
            passed=bool(loss["is_allowed"]),
        )
        for loss in metrics.get("compression", ())
    ]


def _n(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else str(value)
