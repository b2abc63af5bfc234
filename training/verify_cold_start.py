"""``python -m training.verify_cold_start``: are items found that nobody has touched yet?

In the simulated world (preset ``demo``), towers are trained on the first 24 days. Items born in the
six days after are unknown to training: they have no embedding of their own, only attributes, price
and text. For each visit in which a user clicks such items, the user tower asks, with the features
of the millisecond before the visit, for the 100 nearest of all items on offer at that moment, old
ones and new. Recall@100 counts the clicked new items found there.

Chance is exact: a uniformly random ranking of ``C`` candidates holds a given one among its first
100 with probability ``100 / C``; its mean is over the same visits and users. The bar is five times
that, on the mean of three seeds (each another world and another training). Beside it stand the two
limits a simulator knows: ranking by the cosine of the user's true taste and the item's true vector,
and by the true chance of a click, which knows popularity, novelty and needs besides.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import polars as pl
import torch

from recsys.clock import DAY_MS
from recsys.data.examples import Visits, visits_of
from recsys.errors import RecsysError
from recsys.evaluation.bootstrap import Interval, bootstrap_mean
from recsys.events.event_columns import to_frame
from recsys.events.log import Record
from recsys.features import current_plan
from recsys.features.batch import Bools, Int64s
from recsys.features.plan import Plan
from recsys.models.item_table import ItemTable
from recsys.models.two_tower import TwoTower
from recsys.settings import Settings
from recsys.simulation import World, demo
from training.fit import fit_step
from training.loop import NoCheckpoints
from training.prepare import prepare
from training.prepared import Context, Prepared, Sources
from training.progress import Progress
from training.questions import encoded
from training.recipes import Recipe, find_recipe
from training.source import source_of
from training.world import World as Workers

K, BAR = 100, 5.0
TRAINING_DAYS = 24
SEEDS = (7, 8, 9)
_BATCH = 50_000
_T_OF_TWO = 4.303
"""Student's t at 97.5 % with two degrees of freedom: the interval of a mean of three seeds."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Visits in which new items were clicked. Axes: ``V`` visits, ``N`` items."""

    user_ids: Sequence[str]
    user: Int64s
    """``[V]``"""
    moment_ms: Int64s
    context: Context
    on_offer: Bools
    """``[V, N + 1]`` the candidates."""
    owner: Int64s
    item: Int64s
    """Clicked new items, and the row of the visit each belongs to."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one ranking found."""

    recall: Interval
    chance: float

    @property
    def lift(self) -> float:
        """How many times chance."""
        return self.recall.mean / self.chance


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when the mean lift over the seeds reaches the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--seed", type=int, action="append", help="default: 7, 8 and 9")
    args = parser.parse_args(argv)
    settings, progress = Settings(), Progress()
    seeds = args.seed or list(SEEDS)
    try:
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        results = [
            run(replace(find_recipe(args.recipe), seed=seed), plan, progress) for seed in seeds
        ]
    except RecsysError as error:
        sys.stderr.write(f"verify_cold_start: {error}\n")
        return 2
    lifts = np.array([result["towers"].lift for result in results])
    half = _T_OF_TWO * lifts.std(ddof=1) / math.sqrt(3) if len(lifts) == 3 else float("nan")
    passed = bool(lifts.mean() >= BAR)
    report = {
        "passed": passed,
        "bar": BAR,
        "lift": round(float(lifts.mean()), 2),
        "lift_plus_minus": None if math.isnan(half) else round(float(half), 2),
        "seeds": {
            str(seed): {
                name: {
                    "recall@100": round(found.recall.mean, 4),
                    "interval": [round(found.recall.low, 4), round(found.recall.high, 4)],
                    "chance": round(found.chance, 4),
                    "lift": round(found.lift, 2),
                }
                for name, found in result.items()
            }
            for seed, result in zip(seeds, results, strict=True)
        },
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if passed else 1


def run(recipe: Recipe, plan: Plan, progress: Progress) -> dict[str, Found]:
    """Simulate, train and ask, all by the recipe's seed."""
    world = World(demo(recipe.seed))
    test_from_ms = world.config.start_ms + TRAINING_DAYS * DAY_MS
    with progress.stage(f"world {recipe.seed}"):
        log = log_of(world)
    source = source_of(log, plan, "simulated", shift_ms=0, test_from=None)
    prepared, sources = prepare(
        log, plan, recipe, source.objectives, test_from_ms=test_from_ms, progress=progress
    )
    with progress.stage("towers"):
        towers = fitted_towers(prepared)
    asked = visits_with_new_items(log, prepared, sources, source.relevant_type, progress)
    with torch.inference_mode():
        items = towers.items()
        scores = (towers.users(asked.context, items) @ items.T).numpy()
    found = {"towers": judge(scores, asked, recipe.seed)}
    users = world.names.users([asked.user_ids[u] for u in asked.user.tolist()])
    rows = world.names.items(list(sources.catalogue.vocabulary.item_ids))
    tastes = world.users.tastes(world.profiles(users), asked.moment_ms)
    found["true taste"] = judge(_padded(tastes @ world.items.vector[rows].T), asked, recipe.seed)
    chances = [
        world.click_probability(int(user), rows, int(moment))
        for user, moment in zip(users, asked.moment_ms, strict=True)
    ]
    found["true click rate"] = judge(_padded(np.stack(chances)), asked, recipe.seed)
    for name, one in found.items():
        progress.console.print(
            f"  {name}: Recall@100 {one.recall.mean:.4f} ({one.recall.low:.4f} to "
            f"{one.recall.high:.4f}), chance {one.chance:.4f}, lift {one.lift:.2f}"
        )
    return found


def log_of(world: World) -> pl.DataFrame:
    """Give the world's events with the columns of the event log."""
    events, frames, offset = iter(world.events()), [], 0
    while batch := list(islice(events, _BATCH)):
        rows = [
            (Record("simulated", 0, offset + n, None, b"", event.event_time_ms), event)
            for n, event in enumerate(batch)
        ]
        offset += len(batch)
        frames.append(to_frame(rows))
    return pl.concat(frames)


def fitted_towers(prepared: Prepared) -> TwoTower:
    """Train the towers as a run does, without ranker."""
    workers, checkpoints = Workers(), NoCheckpoints()
    first = fit_step("towers", prepared, {}, world=workers, checkpoints=checkpoints)
    last = fit_step("refit", prepared, {"towers": first}, world=workers, checkpoints=checkpoints)
    table = ItemTable(prepared.statics)
    towers = TwoTower(prepared.recipe.model, prepared.dimensions, table)
    towers.load_state_dict(last["towers"])
    late = prepared.first_seen_ms >= prepared.split.test_from_ms
    assert not bool(towers.items.table.has_id[late].any()), "a held-out item has an embedding"
    return towers.eval()


def visits_with_new_items(
    log: pl.DataFrame, prepared: Prepared, sources: Sources, relevant_type: str, progress: Progress
) -> Asked:
    """Give the visits of known users in the test that take items introduced in it."""
    interactions, split = sources.interactions, prepared.split
    first_ms = prepared.first_seen_ms.numpy()
    in_test = interactions.time_ms >= split.test_from_ms
    taken = interactions.where(in_test & interactions.of_type(relevant_type))
    visits: Visits = visits_of(taken, pause_ms=prepared.recipe.towers.pause_ms)
    known = np.isin(visits.user, np.unique(interactions.user[~in_test]))
    owner = np.repeat(np.arange(len(visits)), np.diff(visits.positives.offsets))
    item = visits.positives.values.astype(np.int64)
    is_new = (first_ms[item] >= split.test_from_ms) & (first_ms[item] <= visits.moment_ms[owner])
    kept = is_new & known[owner]
    rows = np.unique(owner[kept])
    moment_ms, user = visits.moment_ms[rows], visits.user[rows]
    ids = np.array(interactions.user_ids, dtype=object)[user]
    gone_ms = np.full(len(first_ms), np.iinfo(np.int64).max)
    withdrawn = log.filter((pl.col("kind") == "item") & ~pl.col("available"))
    index_of = sources.catalogue.vocabulary.index_of
    for item_id, time_ms in withdrawn.select("item_id", "event_time_ms").iter_rows():
        gone_ms[index_of[item_id]] = time_ms
    on_offer = (first_ms <= moment_ms[:, None]) & (moment_ms[:, None] < gone_ms)
    on_offer[:, 0] = False
    return Asked(
        user_ids=interactions.user_ids,
        user=user,
        moment_ms=moment_ms,
        context=encoded(sources.users, ids, moment_ms, prepared.encoding, progress, "visits"),
        on_offer=on_offer,
        owner=np.searchsorted(rows, owner[kept]),
        item=item[kept],
    )


def judge(scores: np.ndarray, asked: Asked, seed: int) -> Found:
    """Give recall and chance, means over users of the means over their visits.

    Visits of one user hang together, so users are what the interval resamples.
    """
    candidates = np.where(asked.on_offer, scores, -np.inf)
    top = np.argpartition(-candidates, K, axis=1)[:, :K]
    hit = (top[asked.owner] == asked.item[:, None]).any(axis=1)
    recall = np.bincount(asked.owner, hit) / np.bincount(asked.owner)
    chance = np.minimum(K / asked.on_offer.sum(axis=1), 1.0)
    _, code, size = np.unique(asked.user, return_inverse=True, return_counts=True)
    by_user = np.bincount(code, recall) / size
    return Found(
        recall=bootstrap_mean(by_user, rng=np.random.default_rng(seed)),
        chance=float((np.bincount(code, chance) / size).mean()),
    )


def _padded(scores: np.ndarray) -> np.ndarray:
    """Put the padding item's column before the others."""
    return np.concatenate([np.zeros((len(scores), 1)), scores], axis=1)


if __name__ == "__main__":
    sys.exit(main())
