"""What turns say together: medians over rounds, and how ours stands to each peer in the same round.

A ratio is taken within a round, of services that were asked one after the other. Its interval is
the least and the greatest of the rounds: it holds the median of all such rounds with probability
``1 - 2 ** (1 - n)``, whatever their distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from benchmarks.peers.serving.services import OURS

Turns = Mapping[int, dict[str, Any]]


def _cpu_a_full_answer(turn: dict[str, Any]) -> float | None:
    """Give what a full answer cost where most were given: refusals are no answers."""
    most = turn["most"]
    full = most["answers"].get("200 full", 0)
    return most["cpu_ms"]["all"] * most["answered"] / full if full else None


_FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "alone_p50_ms": lambda turn: turn["alone"]["p50_ms"],
    "alone_p95_ms": lambda turn: turn["alone"]["p95_ms"],
    "alone_p99_ms": lambda turn: turn["alone"]["p99_ms"],
    "rate_p50_ms": lambda turn: turn["at_rate"]["p50_ms"],
    "rate_p95_ms": lambda turn: turn["at_rate"]["p95_ms"],
    "rate_p99_ms": lambda turn: turn["at_rate"]["p99_ms"],
    "greatest_rate_per_s": lambda turn: turn["objective"]["greatest_rate"],
    "most_per_s": lambda turn: turn["most"]["full_per_s"],
    "alone_cpu_ms": lambda turn: turn["alone"]["cpu_ms"]["all"],
    "most_cpu_ms": _cpu_a_full_answer,
    "rss_mib": lambda turn: turn["rss_mib"],
}
"""Of each turn; ``None``: there is none."""


def summary(turns: Turns) -> dict[str, Any]:
    """Give each figure's median over rounds and all of them; ``None`` where a round has none."""
    found: dict[str, Any] = {}
    for name, figure in _FIGURES.items():
        values = [figure(turn) for turn in turns.values()]
        known = [value for value in values if value is not None]
        middle = round(median(known), 2) if values and len(known) == len(values) else None
        found[name] = {"median": middle, "rounds": values}
    return found


def ratios(ours: Turns, peer: Turns) -> dict[str, dict[str, float]]:
    """Give ours / peer of each figure that both have in the same rounds."""
    common = sorted(ours.keys() & peer.keys())
    found = {}
    for name, figure in _FIGURES.items():
        pairs = [(figure(ours[round_]), figure(peer[round_])) for round_ in common]
        each = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
        if each and len(each) == len(pairs):
            found[name] = {
                "median": round(median(each), 4),
                "least": round(min(each), 4),
                "greatest": round(max(each), 4),
                "rounds": len(each),
            }
    return found


def same_lists(turns: Turns) -> dict[str, Any]:
    """Give how far the lists of a peer were ours: the least shared, the largest gap of scores."""
    each = [turn["same_lists"] for turn in turns.values()]
    return {
        "shared_at_least": min(one["shared"] for one in each),
        "score_gap_at_most": max(one["score_gap"] for one in each),
        "lists": sum(one["lists"] for one in each),
    }


def table(turns: Mapping[str, Turns], rate: float) -> str:
    """Give the medians, and the ratios beside ours, as Markdown."""
    heads = [
        "service", "alone: p50 / p95 / p99", f"at {rate:g}/s: p50 / p95 / p99",
        "greatest rate kept", "answered at most", "CPU a full answer then",
    ]  # fmt: skip
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name, of in turns.items():
        middle = {key: value["median"] for key, value in summary(of).items()}
        lines.append(
            _row(
                [
                    name,
                    " / ".join(_said(middle[f"alone_p{p}_ms"], "") for p in (50, 95, 99)) + " ms",
                    " / ".join(_said(middle[f"rate_p{p}_ms"], "") for p in (50, 95, 99)) + " ms",
                    _said(middle["greatest_rate_per_s"], "/s") or "none",
                    _said(middle["most_per_s"], "/s"),
                    _said(middle["most_cpu_ms"], " ms"),
                ]
            )
        )
    figures = {
        "alone p50": "alone_p50_ms", "alone p99": "alone_p99_ms",
        f"p50 at {rate:g}/s": "rate_p50_ms", "rate kept": "greatest_rate_per_s",
        "most": "most_per_s", "CPU then": "most_cpu_ms",
    }  # fmt: skip
    heads = ["ours / peer", *figures]
    lines += ["", _row(heads), _row(["---"] * len(heads))]
    for name, of in turns.items():
        if name != OURS and OURS in turns:
            each = ratios(turns[OURS], of)
            lines.append(_row([name, *(_ratio(each.get(key)) for key in figures.values())]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _said(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.1f}{unit}"


def _ratio(of: dict[str, float] | None) -> str:
    return "" if of is None else f"{of['median']:.3g} ({of['least']:.3g} … {of['greatest']:.3g})"
