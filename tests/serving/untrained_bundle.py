"""A whole, valid bundle with weights nobody trained: real files, real manifest, in a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from recsys.bundle.load import ITEMS_FILE, RANKER_FILE, TOWERS_FILE
from recsys.bundle.manifest import Lineage, Manifest, Objective, file_entry
from recsys.bundle.store import BundleStore
from recsys.clock import now_ms
from recsys.data.vocabulary import Vocabulary
from recsys.data.vocabulary_file import save_vocabulary
from recsys.features.plan import Plan
from recsys.features.request_time import REQUEST_TIME_FEATURES
from recsys.models.config import RankerConfig, SourceMix, TwoTowerConfig
from recsys.models.encode import UserEncoding
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.ranker import Ranker
from recsys.models.signature import Dimensions
from recsys.models.two_tower import TwoTower

CATEGORIES = ("books", "mugs", "tea")


def item_id(row: int) -> str:
    """Identity of a vocabulary row."""
    return f"item-{row:06d}"


def add_untrained_bundle(
    bundle_dir: Path, plan: Plan, *, num_items: int = 300, seed: int = 0
) -> str:
    """Put a bundle into the store and give its id; another seed gives another bundle."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    folder = bundle_dir.parent / f"untrained-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary(tuple(item_id(row) for row in range(1, num_items + 1)), CATEGORIES)
    category = rng.integers(0, len(CATEGORIES), num_items)
    save_vocabulary(vocabulary, folder / "vocabulary.json")
    plan.dump(folder / "plan.json")
    pl.DataFrame(
        {
            "item_index": np.arange(1, num_items + 1, dtype=np.int32),
            "item_id": vocabulary.item_ids,
            "title": [f"Item {row}" for row in range(1, num_items + 1)],
            "category": [CATEGORIES[c] for c in category],
            "price": pl.Series(rng.random(num_items) * 20, dtype=pl.Float64),
            "born_ms": np.full(num_items, 1_700_000_000_000),
            "available": np.ones(num_items, dtype=np.bool_),
        }
    ).write_parquet(folder / "catalogue.parquet")
    (folder / "popular.json").write_text(
        json.dumps(
            [{"item_id": i, "score": 1 / (n + 1)} for n, i in enumerate(vocabulary.item_ids)]
        )
    )
    encoding = UserEncoding(
        history_length=64,
        num_tokens=8,
        user_activity=plan.user_activity_names,
        num_categories=len(CATEGORIES),
        user_category_activity=plan.user_category_activity_names,
    )
    mix = SourceMix()
    dimensions = Dimensions(
        history_length=encoding.history_length,
        num_tokens=encoding.num_tokens,
        num_user_features=len(encoding.user_activity) + len(REQUEST_TIME_FEATURES) + 1,
        num_categories=len(CATEGORIES),
        num_category_features=len(encoding.user_category_activity),
        num_item_features=len(plan.item_activity_names),
        objectives=("click", "purchase"),
        sources=mix.names,
    )
    towers_config, ranker_config = TwoTowerConfig(), RankerConfig()
    table = ItemTable(
        ItemStatics(
            category=torch.from_numpy(np.concatenate([[len(CATEGORIES)], category])),
            price=torch.rand(num_items + 1) * 20,
            text=torch.randint(1, 8192, (num_items + 1, towers_config.num_words)),
            has_id=torch.ones(num_items + 1, dtype=torch.bool),
        )
    )
    towers = TwoTower(towers_config, dimensions, table).eval()
    ranker = Ranker(ranker_config, dimensions, table, towers_config.embedding_size).eval()
    with torch.no_grad():
        vectors = towers.items()
    save_file({k: v.contiguous() for k, v in towers.state_dict().items()}, folder / TOWERS_FILE)
    save_file(
        {k: v for k, v in ranker.state_dict().items() if not k.startswith("table.")},
        folder / RANKER_FILE,
    )
    save_file(
        {
            "vectors": vectors.contiguous(),
            "available": torch.arange(num_items + 1) > 0,
            "activity": torch.zeros(num_items + 1, dimensions.num_item_features),
            "activity_as_of_ms": torch.tensor(now_ms()),
            "neighbour_index": torch.randint(
                1, num_items + 1, (num_items + 1, 50), dtype=torch.int32
            ),
            "neighbour_weight": torch.rand(num_items + 1, 50),
            "popular_weights": torch.ones(dimensions.num_item_features),
        },
        folder / ITEMS_FILE,
    )
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
        num_candidates=200,
        metrics={},
        lineage=Lineage(
            dataset="none",
            num_events=0,
            data_from_ms=0,
            data_until_ms=0,
            seed=seed,
            code_version="test",
            libraries={},
            device="cpu",
        ),
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
    )
    manifest = Manifest.model_validate_json(manifest.model_dump_json()).with_id()
    manifest.write(folder)
    return BundleStore(bundle_dir).add(folder)
