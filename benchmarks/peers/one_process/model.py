"""User tower, faiss and ranker in torch: a bundle's weights, called the usual way.

Axes: ``B`` users, ``C`` candidates, ``N`` items, ``D`` embedding, ``Fi`` moving item features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.one_process import HNSW_FROM_ITEMS
from recsys.bundle.load import ITEMS_FILE, RANKER_FILE, TOWERS_FILE
from recsys.bundle.manifest import Manifest
from recsys.compression.item_vectors import Float32Vectors
from recsys.features.batch import Float32s, Ragged, UserFeatures
from recsys.models.encode import encode_users
from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.ranker_halves import ItemHalf
from recsys.models.serving_model import Candidates
from recsys.models.two_tower import TwoTower
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource

_HNSW_LINKS, _HNSW_BUILD, _HNSW_SEARCH = 32, 80, 1200
# A search of 1,200 finds as many of the best 500 as our index, .930 and .936 for users whose
# histories lie far apart (a million items); one of 600 found .851.


class ScoredItems(NamedTuple):
    """Items in order, best first; ``[B, C]``."""

    row: NDArray[np.int64]
    """0 stands behind a user's last candidate."""
    score: Float32s


class BundleModel:
    """The weights of one bundle whose only source is the towers."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        items = load_file(path / ITEMS_FILE)
        table = ItemTable.empty(manifest.num_items, manifest.towers.num_words)
        dimensions = manifest.dimensions
        self._towers = TwoTower(manifest.towers, dimensions, table).eval()
        self._ranker = Ranker(
            manifest.ranker, dimensions, table, manifest.towers.embedding_size
        ).eval()
        self._towers.load_state_dict(load_file(path / TOWERS_FILE))
        self._ranker.load_state_dict(load_file(path / RANKER_FILE), strict=False)
        self._table = table
        self._vectors = items["vectors"]
        self._log_price = table.log_price()
        self._static = torch.stack([self._log_price, (table.price >= 0).float()], dim=1)
        # One object: the source keeps the moments of the table it saw last.
        self._item_vectors = Float32Vectors(self._vectors)
        self._source = TwoTowerSource()
        self._weights = torch.tensor([o.weight for o in manifest.objectives])
        self._index = _index(path, self._vectors.numpy())

    @torch.inference_mode()
    def users(self, features: UserFeatures) -> tuple[dict[str, Tensor], Tensor]:
        """Give users' tensors and ``[B, D]`` vectors."""
        encoded = encode_users(features, self.manifest.encoding)
        user = {name: torch.from_numpy(array) for name, array in encoded.items()}
        return user, self._towers.users(user, self._vectors)

    def retrieve(self, vectors: Tensor, seen: Ragged, count: int) -> NDArray[np.int64]:
        """Give ``[B, C]`` rows of the ``count`` nearest items each has not seen, padded with 0."""
        most = int(np.diff(seen.offsets).max())
        _, found = self._index.search(vectors.numpy(), count + most)
        rows = np.zeros((len(found), count), np.int64)
        for place, near in enumerate(found + 1):
            kept = near[(near > 0) & ~np.isin(near, seen.row(place))][:count]
            rows[place, : len(kept)] = kept
        return rows

    @torch.inference_mode()
    def rank(
        self, user: dict[str, Tensor], vectors: Tensor, rows: NDArray[np.int64], activity: Float32s
    ) -> ScoredItems:
        """Order candidates ``[B, C]`` by the ranker; ``activity`` ``[B, C, Fi]`` is theirs."""
        index = torch.from_numpy(rows)
        moving = torch.from_numpy(activity).flatten(0, 1)
        inputs = SourceInputs(
            user=user, user_vectors=vectors, item_vectors=self._item_vectors, item_activity=moving
        )
        source_score = self._source.scores(inputs, index)
        candidates = Candidates(index.to(torch.int32), source_score.unsqueeze(2))
        flat = index.flatten()
        known = torch.cat([self._ranker.item_dense(moving), F.embedding(flat, self._static)], 1)
        items = ItemHalf(
            self._ranker.project_item(known),
            self._ranker.item_factors(F.embedding(flat, self._vectors)),
            None,
        )
        prices = self._ranker.prices(user, self._log_price)
        output = self._ranker.combine(
            self._ranker.user_half(user, vectors, items),
            items,
            torch.arange(len(flat)).view_as(index),
            self._ranker.cross_features(user, candidates, moving, prices),
            item_index=candidates.item_index,
        )
        score = (output.order @ self._weights).masked_fill(index == 0, -torch.inf)
        best, order = score.sort(dim=1, descending=True)
        return ScoredItems(index.gather(1, order).numpy(), best.numpy())


def _index(path: Path, vectors: Float32s) -> Any:
    """Give a faiss index of rows 1 … N (as 0 …); a built graph is kept beside the bundle."""
    count, size = len(vectors) - 1, vectors.shape[1]
    if count < HNSW_FROM_ITEMS:
        index = faiss.IndexFlatIP(size)
        index.add(np.ascontiguousarray(vectors[1:]))
        return index
    file = path.parent / f".{path.name}.hnsw"
    if not file.exists():
        graph = faiss.IndexHNSWFlat(size, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _HNSW_BUILD
        graph.add(np.ascontiguousarray(vectors[1:]))
        temporary = file.with_suffix(".tmp")
        faiss.write_index(graph, str(temporary))
        temporary.replace(file)
    graph = faiss.read_index(str(file))
    graph.hnsw.efSearch = _HNSW_SEARCH
    return graph
