"""Recipes: functions that return a whole training run. A variant is ``replace(demo(), ...)``.

The fields say how the run behaves; where things are is in ``recsys/settings.py``, and what the data
mean (objectives, split) is in the data set's mapping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from recsys.clock import DAY_MS, MINUTE_MS
from recsys.errors import ConfigurationError
from recsys.models.config import RankerConfig, SourceMix, TwoTowerConfig
from recsys.retrieval.search_choice import Search
from training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class TowerTraining:
    """How the towers learn."""

    epochs: int = 5
    """Passes over the visits before the ranker's labels begin."""
    refit_epochs: int = 2
    """Further passes, now over all visits before the test."""
    batch_visits: int = 256
    """Visits in a step, over all workers."""
    positives_per_visit: int = 8
    """Items of a visit that a step looks at, drawn anew each time."""
    softmax: Literal["sampled", "full"] = "sampled"
    """``full`` compares with the whole catalogue: exact, for up to some ten thousand items."""
    uniform_negatives: int = 1024
    """Drawn from the whole catalogue beside the other positives of the batch, so that items which
    are never taken are pushed down too."""
    learning_rate: float = 4e-3
    """Peak; one cycle over all steps."""
    weight_decay: float = 1e-5
    """AdamW's."""
    repeat_weight: float = 0.3
    """Weight of a positive the user already had: the history source finds those."""
    newcomer_ms: int = 3 * DAY_MS
    """A visit this soon after an item appeared meets it without its own embedding, where the model
    ``learns_newcomers``: about as long as a bundle serves."""
    pause_ms: int = 30 * MINUTE_MS
    """A pause this long ends a visit."""
    max_visits: int = 200_000
    """The latest visits are kept when there are more: bounds memory."""


@dataclass(frozen=True, kw_only=True)
class RankerTraining:
    """How the ranker learns."""

    features: Literal["joined", "logged"] = "joined"
    """What is known of the user of a shown list: joined from the event log as of that moment, or
    as it was logged when the list was answered (``logged_lists.py``)."""
    epochs: int = 5
    """Passes over its lists; more fit the weeks before the test and lose on it."""
    batch_lists: int = 64
    """Lists in a step, over all workers."""
    list_length: int = 100
    """Candidates of a list that are kept: all positives and a draw of the others."""
    learning_rate: float = 3e-3
    """Peak; one cycle over all steps."""
    weight_decay: float = 1e-4
    """AdamW's."""
    zero_start: bool = False
    """Whether it begins without an order of its own (``Ranker.start_at_zero``): for short trainings
    at a low rate, which would not undo a random one."""
    span_ms: int = 52 * DAY_MS
    """How much of the log before the test the ranker's labels come from."""
    window_ms: int = 30 * DAY_MS
    """Data without impressions: a question asks what is taken within this time."""
    every_ms: int = 7 * DAY_MS
    """Data without impressions: time from one round of questions to the next."""
    attribution_ms: int = 30 * MINUTE_MS
    """Data with impressions: how long after a list was shown an act still belongs to it."""
    refresh_ms: int = DAY_MS // 4
    """Data with impressions: age that the items' moving features may have in training."""
    max_lists: int = 20_000
    """Lists in all; more are thinned by chance."""
    idle_lists: int = 300
    """Users a round who took nothing: they teach the probabilities, not the order."""
    random_negatives: int = 32
    """Data with impressions: items that were not shown, added to each list, since candidates at
    serving are not chosen by the policy that chose the lists."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a large ranker teaches the one that serves (``distillation.py``)."""

    teacher: RankerConfig = field(
        default_factory=lambda: RankerConfig(
            hidden_size=192, num_crosses=3, num_factors=32, attention_heads=4, num_experts=4
        )
    )
    epochs: int = 5
    """The teacher's passes over the lists."""
    share: float = 0.5
    """Of the student's loss; the labels have the rest."""
    temperature: float = 2.0
    """T: softens both distributions over a list."""


@dataclass(frozen=True, kw_only=True)
class NeighbourFit:
    """How item-to-item neighbours are fitted."""

    method: Literal["auto", "ease", "knn"] = "auto"
    """``auto``: EASE up to ``ease.MAX_ITEMS`` items, cosine neighbours beyond."""
    penalty: float = 100.0
    """EASE's."""
    shrinkage: float = 10.0
    """Cosine's."""
    half_life_days: float = 60.0
    """A taken item's weight halves in this time."""
    num_neighbours: int = 200
    """M."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, from the log to the bundle."""

    name: str
    seed: int = 7
    history_length: int = 128
    """H: what the feature store keeps."""
    num_tokens: int = 16
    """T."""
    request_keys: tuple[str, ...] = ()
    """Keys of a request's context that the ranker looks at (``ranker_model.token_size`` is the
    width of their embeddings). Impressions must say of their lists what requests say."""
    min_interactions_for_id: int = 2
    """Items with fewer are described by words and attributes alone."""
    num_candidates: int = 400
    """C: candidates a request ranks."""
    popular_columns: dict[str, float] = field(default_factory=lambda: {"interactions_30d": 1.0})
    """Columns of ``item_activity`` that say what is popular, with their weights."""
    test_share: float = 0.1
    """Share of the log's time that is the test, where no moment is given."""
    model: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    ranker_model: RankerConfig = field(default_factory=RankerConfig)
    sources: SourceMix = field(default_factory=SourceMix)
    towers: TowerTraining = field(default_factory=TowerTraining)
    ranker: RankerTraining = field(default_factory=RankerTraining)
    distillation: Distillation | None = None
    """None: the ranker learns from labels alone."""
    neighbours: NeighbourFit = field(default_factory=NeighbourFit)
    search: Search = "auto"
    """How the towers' candidates are searched: exactly, by an approximate index in the bundle, or
    ``auto``: as is quicker at the catalogue's size (``search_choice.py``)."""
    engine: Engine = field(default_factory=Engine)


def demo() -> Recipe:
    """Give the run of ``recsys demo``: under 100 seconds on two cores for a year of a shop."""
    return Recipe(name="demo", model=TwoTowerConfig(learns_newcomers=True))


def debug() -> Recipe:
    """Give a run of a few seconds, to see that everything fits together."""
    base = demo()
    return replace(
        base,
        name="debug",
        num_candidates=64,
        model=replace(base.model, embedding_size=16, hidden_size=32, num_text_buckets=512),
        ranker_model=replace(base.ranker_model, hidden_size=16),
        sources=replace(base.sources, quotas=(8, 8, 4, 4, 8)),
        towers=replace(base.towers, epochs=2, refit_epochs=1, batch_visits=64),
        ranker=replace(base.ranker, epochs=2, list_length=32, idle_lists=20),
        neighbours=replace(base.neighbours, num_neighbours=20),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"demo": demo, "debug": debug}


def find_recipe(name: str) -> Recipe:
    """Give a recipe by name. Raises ConfigurationError when there is none."""
    if name not in RECIPES:
        raise ConfigurationError(f"no recipe {name!r} (found {', '.join(RECIPES)})")
    return RECIPES[name]()
