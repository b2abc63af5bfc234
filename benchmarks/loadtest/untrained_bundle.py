"""A whole, valid bundle of any size with weights nobody trained: to measure speed, and for tests.

The shapes are those of the default recipe; what the numbers mean is nobody's concern here. Items
``i1 … iN`` are spread over 20 categories, their vectors lie in clouds of very different size, and a
user's beside the mean of the history (``benchmarks/retrieval/vectors.py``), so that an approximate
index finds neighbourhoods as in a trained catalogue. It has one where ``auto`` gives it one
(``recsys/retrieval/search_choice.py``).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.retrieval.vectors import SIZE, make_vectors
from recsys.bundle.indexed import add_index
from recsys.bundle.load import ITEMS_FILE, RANKER_FILE, TOWERS_FILE
from recsys.bundle.manifest import Lineage, Manifest, Objective, file_entry
from recsys.bundle.store import BundleStore
from recsys.clock import now_ms
from recsys.data.vocabulary import Vocabulary
from recsys.data.vocabulary_file import save_vocabulary
from recsys.features.plan import Plan
from recsys.models.config import RankerConfig, SourceMix, TwoTowerConfig
from recsys.models.encode import UserEncoding
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.ranker import Ranker
from recsys.models.signature import Dimensions
from recsys.models.two_tower import TwoTower
from recsys.retrieval.search_choice import Search, is_approximate

NUM_CATEGORIES = 20
NUM_NEIGHBOURS = 50
NUM_MAKERS = 1_000
NUM_CANDIDATES = 500
HISTORY_LENGTH = 50
NUM_TOKENS = 16
_BORN_MS = 1_700_000_000_000
_OWN_PART = 3.0
"""Length of an item's own vector beside what its category, words and price say."""
_PROFILE_PART = 0.3
"""Of what the user tower makes of anything but the items of the history."""
TOWERS_ONLY = SourceMix(names=("two_tower",), weights=(1.0,), quotas=(0,))
"""One source: candidates are the nearest items, as in the service ours is measured beside."""
_ALL_SOURCES = SourceMix()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes beside the catalogue's: those of the default recipe, unless given."""

    num_candidates: int = NUM_CANDIDATES
    history_length: int = HISTORY_LENGTH
    num_item_features: int | None = None
    """Moving features an item; others than the plan's (``None``) can be computed, not served."""
    search: Search = "auto"


_DEFAULT_SHAPE = Shape()


def item_id(row: int) -> str:
    """Give the identity of vocabulary row 1 … N."""
    return f"i{row}"


def category_of(row: int) -> str:
    """Give an item's category."""
    return f"c{row % NUM_CATEGORIES}"


def add_untrained_bundle(
    bundle_dir: Path,
    plan: Plan,
    *,
    num_items: int = 300,
    mix: SourceMix = _ALL_SOURCES,
    seed: int = 0,
    offered: slice = slice(None),
    prefix: str = "",
    shape: Shape = _DEFAULT_SHAPE,
    log_positions: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """Put a bundle into the store and give its id; another seed gives another bundle.

    Items not ``offered`` are withdrawn. With a ``prefix`` they are other items than the log's, so
    that what the log says of those changes nothing here; whoever serves it with room for created
    items (``RECSYS_MAX_CREATED_ITEMS``) adds those of the log. What the log said of items before
    ``log_positions`` (``Lineage``) is no news to whoever serves it; without them all of it is, and
    items are embedded anew from it.
    """
    work = Path(tempfile.mkdtemp(prefix=".untrained-", dir=_made(bundle_dir).parent))
    try:
        return _write(
            bundle_dir, work, plan, num_items, mix, seed, offered, prefix, shape, log_positions
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(
    bundle_dir: Path, folder: Path, plan: Plan, num_items: int, mix: SourceMix, seed: int,
    offered: slice, prefix: str, shape: Shape, log_positions: Mapping[str, int],
) -> str:  # fmt: skip
    torch.manual_seed(seed)
    available = np.zeros(num_items + 1, dtype=np.bool_)
    available[1:][offered] = True
    _write_names(folder, num_items, prefix, available, seed)
    plan.dump(folder / "plan.json")
    encoding = UserEncoding(
        history_length=shape.history_length,
        num_tokens=NUM_TOKENS,
        user_activity=plan.user_activity_names,
        num_categories=NUM_CATEGORIES,
        user_category_activity=plan.user_category_activity_names,
    )
    dimensions = Dimensions(
        history_length=encoding.history_length,
        num_tokens=encoding.num_tokens,
        num_user_features=len(encoding.dense_names),
        num_categories=NUM_CATEGORIES,
        num_category_features=len(encoding.user_category_activity),
        num_item_features=shape.num_item_features or len(plan.item_activity_names),
        objectives=("click", "purchase"),
        sources=mix.names,
    )
    towers_config, ranker_config = TwoTowerConfig(), RankerConfig()
    vectors = _write_models(folder, num_items, dimensions, towers_config, ranker_config, seed)
    _write_items(folder, vectors, available, dimensions.num_item_features)
    del vectors
    manifest = Manifest(
        bundle_id="0" * 16,
        created_ms=now_ms(),
        recipe="untrained",
        recipe_config={"seed": seed},
        feature_services=("retrieval_v1", "ranking_v1"),
        plan_schema_hash=plan.schema_hash,
        dimensions=dimensions,
        encoding=encoding,
        towers=towers_config,
        ranker=ranker_config,
        sources=mix,
        objectives=(
            Objective(name="click", interaction="click", weight=0.5),
            Objective(name="purchase", interaction="purchase", weight=0.5),
        ),
        num_items=num_items,
        num_candidates=shape.num_candidates,
        metrics={},
        lineage=Lineage(
            dataset="none", num_events=0, log_positions=dict(log_positions),
            data_from_ms=0, data_until_ms=0, seed=seed,
            code_version="untrained", libraries={"python": sys.version.split()[0]}, device="cpu",
        ),
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
    )  # fmt: skip
    manifest = Manifest.model_validate_json(manifest.model_dump_json()).with_id()
    manifest.write(folder)
    if is_approximate(shape.search, num_items):
        add_index(folder, now_ms=now_ms())
    return BundleStore(bundle_dir).add(folder)


def _write_names(
    folder: Path, num_items: int, prefix: str, available: NDArray[np.bool_], seed: int
) -> None:
    """Write what items are called and what is said of them."""
    rng = np.random.default_rng(seed)
    ids = tuple(prefix + item_id(row) for row in range(1, num_items + 1))
    categories = tuple(f"c{n}" for n in range(NUM_CATEGORIES))
    save_vocabulary(Vocabulary(ids, categories), folder / "vocabulary.json")
    row = pl.col("item_index")
    category = pl.format("c{}", row % NUM_CATEGORIES)
    pl.DataFrame(
        {"item_index": np.arange(1, num_items + 1, dtype=np.int32), "item_id": ids}
    ).with_columns(
        title=pl.format("Item {}", row),
        category=category,
        price=pl.Series(rng.random(num_items) * 20, dtype=pl.Float64),
        born_ms=pl.lit(_BORN_MS, dtype=pl.Int64),
        available=pl.Series(available[1:]),
        tags=pl.concat_list(
            pl.format("category={}", category), pl.format("maker=m{}", row % NUM_MAKERS)
        ),
    ).write_parquet(folder / "catalogue.parquet")  # fmt: skip
    (folder / "popular.json").write_text(
        json.dumps(
            [
                {"item_id": prefix + item_id(n), "score": 1 / n}
                for n in range(1, min(num_items, 1000) + 1)
                if available[n]
            ]
        )
    )


def _write_models(
    folder: Path, num_items: int, dimensions: Dimensions, towers_config: TwoTowerConfig,
    ranker_config: RankerConfig, seed: int,
) -> Tensor:  # fmt: skip
    """Write towers and ranker, and give the vectors ``[N + 1, D]`` of the items."""
    table = ItemTable(
        ItemStatics(
            category=torch.cat(
                [torch.tensor([NUM_CATEGORIES]), torch.arange(1, num_items + 1) % NUM_CATEGORIES]
            ),
            price=torch.rand(num_items + 1) * 20,
            text=torch.randint(1, 8192, (num_items + 1, towers_config.num_words)),
            has_id=torch.ones(num_items + 1, dtype=torch.bool),
        )
    )
    towers = TwoTower(towers_config, dimensions, table).eval()
    ranker = Ranker(ranker_config, dimensions, table, towers_config.embedding_size).eval()
    with torch.no_grad():
        _shape(towers, num_items, seed)
        vectors = towers.items()
    save_file({k: v.contiguous() for k, v in towers.state_dict().items()}, folder / TOWERS_FILE)
    save_file(
        {k: v for k, v in ranker.state_dict().items() if not k.startswith("table.")},
        folder / RANKER_FILE,
    )
    return vectors


def _write_items(
    folder: Path, vectors: Tensor, available: NDArray[np.bool_], num_features: int
) -> None:
    """Write what is kept of each item; called when the towers are gone: of many items either
    fills the memory."""  # fmt: skip
    num_rows = len(vectors)
    save_file(
        {
            "vectors": vectors,
            "available": torch.from_numpy(available),
            "activity": torch.zeros(num_rows, num_features),
            "activity_as_of_ms": torch.tensor(now_ms()),
            "neighbour_index": torch.randint(
                1, num_rows, (num_rows, NUM_NEIGHBOURS), dtype=torch.int32
            ),
            "neighbour_weight": torch.rand(num_rows, NUM_NEIGHBOURS),
            "popular_weights": torch.ones(num_features),
        },
        folder / ITEMS_FILE,
    )


def _shape(towers: TwoTower, num_items: int, seed: int) -> None:
    """Put items into clouds and users beside what they had."""
    clouds, _ = make_vectors("mixture", num_items=num_items, num_users=0, seed=seed)
    towers.items.identity.weight[1:] = torch.from_numpy(clouds).mul_(_OWN_PART)
    users, heads = towers.users, towers.users.residual.in_features // SIZE
    users.residual.weight.copy_(torch.eye(SIZE).repeat(1, heads) / heads)
    for parameter in users.network[-1].parameters():
        parameter.mul_(_PROFILE_PART)
