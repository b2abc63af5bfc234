"""python -m recsys.simulation.statistics --preset demo

Measures a world's log and prints the table of ``docs/simulation.md`` as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from recsys.clock import DAY_MS
from recsys.events.schema import Event, FeedbackEvent, ImpressionEvent, InteractionEvent
from recsys.simulation.config import PRESETS
from recsys.simulation.counter_random import Floats, Ints
from recsys.simulation.world import World

_AFTER = ("long_view", "add_to_cart", "purchase", "like")
_MONTH_MS = 30 * DAY_MS
_NUM_JUDGED = 4_000
"""Requests on which policies are compared; the standard error is then about 0.004."""


def gini(counts: Floats) -> float:
    """Give how unequal ``counts`` are: 0 all the same, near 1 one has it all; NaN when all are 0.

    >>> gini(np.array([1.0, 1.0])), gini(np.array([0.0, 0.0, 0.0, 4.0]))
    (0.0, 0.75)
    """
    x = np.sort(counts)
    n = len(x)
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum())) if x.sum() else float("nan")


def describe(world: World, events: Sequence[Event]) -> dict[str, str]:
    """Give the statistics of a log by name, formatted."""
    shown = [e for e in events if isinstance(e, ImpressionEvent)]
    actions = [e for e in events if isinstance(e, InteractionEvent | FeedbackEvent)]
    clicks = [e for e in actions if e.type == "click"]
    purchases = [e for e in actions if e.type == "purchase"]
    places = np.bincount([k for e in shown for k in range(len(e.items))])
    at = np.bincount([e.position or 0 for e in clicks], minlength=len(places))
    items_shown = Counter(item for e in shown for item in e.items)
    items_clicked = Counter(e.item_id for e in clicks)
    all_items = [str(item) for item in world.items.ids]
    sessions = Counter(e.request_id.rsplit(".", 1)[0] for e in shown)
    by_user = np.sort([float(n) for n in Counter(e.user_id for e in shown).values()])[::-1]
    head = by_user[: len(by_user) // 10].sum() / by_user.sum()
    first = np.array([e.propensities[0] for e in shown])
    types = Counter(e.type for e in actions)
    rows = {
        "events": f"{len(events):,}",
        "impressions (lists)": f"{len(shown):,}",
        "sessions; lists a session": f"{len(sessions):,}; {len(shown) / len(sessions):.2f}",
        "lists by the most active 10 % of users": f"{head:.0%}",
        "clicks per shown item": f"{len(clicks) / places.sum():.2%}",
        "… at positions 0, 1, 2, 3, 5, 8, 11": ", ".join(
            f"{at[k] / places[k]:.2%}" for k in (0, 1, 2, 3, 5, 8, 11) if k < len(places)
        ),
        "lists with a click": f"{len({e.request_id for e in clicks}) / len(shown):.1%}",
        "after a click: " + ", ".join(_AFTER): ", ".join(
            f"{types[name] / len(clicks):.1%}" for name in _AFTER
        ),
        "`not_interested` per list": f"{types['not_interested'] / len(shown):.2%}",
        "clicks on an item the user clicked before": f"{_repeats(clicks):.1%}",
        "purchases of an item the user bought before": f"{_repeats(purchases):.1%}",
        "Gini over items of showings; of clicks": "; ".join(
            f"{gini(np.array([float(counts[item]) for item in all_items])):.2f}"
            for counts in (items_shown, items_clicked)
        ),
        "propensity at position 0: 1 %, 50 %, 99 % quantile": ", ".join(
            f"{q:.2g}" for q in np.quantile(first, [0.01, 0.5, 0.99])
        ),
    }
    return rows | judged(world, shown)


def judged(world: World, shown: Sequence[ImpressionEvent]) -> dict[str, str]:
    """Give the true click rate at the first position of several ways to pick from candidates."""
    step = max(1, len(shown) // _NUM_JUDGED)
    picked = [event.request_id for event in shown][step // 2 :: step]
    logged = world.logged_requests(picked)
    present, truth = logged.candidates >= 0, logged.click_probability
    weight = np.exp(logged.scores - logged.scores.max(axis=1, keepdims=True))
    candidates = np.maximum(logged.candidates, 0)
    width = candidates.shape[1]

    def value(score: Floats) -> float:
        best = np.where(present, score, -np.inf).argmax(axis=1)
        return float(truth[np.arange(len(best)), best].mean())

    def static(time_ms: Ints) -> Floats:
        users, times = logged.user.repeat(width), time_ms.repeat(width)
        return world.click_probability(users, candidates.ravel(), times).reshape(candidates.shape)

    by_policy = (weight * truth).sum(axis=1) / weight.sum(axis=1)
    at_random = (truth * present).sum() / present.sum()
    return {
        "true click rate at position 0, picking: at random": f"{at_random:.3f}",
        "… the most popular candidate": f"{value(world.items.quality[candidates]):.3f}",
        "… by the logging policy": f"{by_policy.mean():.3f}",
        "… by true taste of 30 days before": f"{value(static(logged.time_ms - _MONTH_MS)):.3f}",
        "… by true taste now, blind to the session": f"{value(static(logged.time_ms)):.3f}",
        "… by the truth": f"{value(truth):.3f}",
    }


def _repeats(actions: Sequence[InteractionEvent | FeedbackEvent]) -> float:
    pairs = {(action.user_id, action.item_id) for action in actions}
    return 1.0 - len(pairs) / max(1, len(actions))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; give its exit code."""
    parser = argparse.ArgumentParser(description="Measure a simulated world.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    world = World(PRESETS[args.preset](args.seed))
    began = time.process_time()
    count = sum(1 for _ in world.events())
    rate = count / (time.process_time() - began)
    rows = describe(world, list(world.events()))
    rows["events made per second of one core, structs included"] = f"{rate:,.0f}"
    sys.stdout.write("| statistic | value |\n|---|---|\n")
    for name, value in rows.items():
        sys.stdout.write(f"| {name} | {value} |\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
