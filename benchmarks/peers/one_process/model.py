"""User tower, faiss and ranker in torch: a bundle's weights, called the usual way.

Axes: ``C`` candidates, ``N`` items, ``D`` embedding, ``Fi`` moving item features.
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

from recsys.bundle.load import ITEMS_FILE, RANKER_FILE, TOWERS_FILE
from recsys.bundle.manifest import Manifest
from recsys.compression.item_vectors import Float32Vectors
from recsys.features.batch import Float32s, UserFeatures
from recsys.models.encode import encode_users
from recsys.models.item_table import ItemTable
from recsys.models.ranker import ItemHalf, Ranker
from recsys.models.serving_model import Candidates
from recsys.models.two_tower import TwoTower
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource

HNSW_FROM_ITEMS = 200_000
"""Smaller catalogues are searched whole."""
_HNSW_LINKS, _HNSW_BUILD, _HNSW_SEARCH = 32, 80, 600


class ScoredItems(NamedTuple):
    """Items in order, best first."""

    row: NDArray[np.int64]
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
    def user(self, features: UserFeatures) -> tuple[dict[str, Tensor], Tensor]:
        """Give a user's tensors and ``[1, D]`` vector."""
        encoded = encode_users(features, self.manifest.encoding)
        user = {name: torch.from_numpy(array) for name, array in encoded.items()}
        return user, self._towers.users(user, self._vectors)

    def retrieve(self, vector: Tensor, seen: NDArray[np.int32], count: int) -> NDArray[np.int64]:
        """Give the rows of the ``count`` nearest items that were not seen."""
        _, found = self._index.search(vector.numpy(), count + len(seen))
        rows = found[0] + 1
        return rows[(rows > 0) & ~np.isin(rows, seen)][:count]

    @torch.inference_mode()
    def rank(
        self, user: dict[str, Tensor], vector: Tensor, rows: NDArray[np.int64], activity: Float32s
    ) -> ScoredItems:
        """Order candidates by the ranker; ``activity`` ``[C, Fi]`` of the candidates."""
        index = torch.from_numpy(rows)
        moving = torch.from_numpy(activity)
        inputs = SourceInputs(
            user=user, user_vectors=vector, item_vectors=self._item_vectors, item_activity=moving
        )
        source_score = self._source.scores(inputs, index.unsqueeze(0))
        candidates = Candidates(index.unsqueeze(0).to(torch.int32), source_score.unsqueeze(2))
        known = torch.cat([self._ranker.item_dense(moving), F.embedding(index, self._static)], 1)
        items = ItemHalf(
            self._ranker.project_item(known),
            self._ranker.item_factors(F.embedding(index, self._vectors)),
            None,
        )
        prices = self._ranker.prices(user, self._log_price)
        output = self._ranker.combine(
            self._ranker.user_half(user, vector, items),
            items,
            torch.arange(len(rows)).unsqueeze(0),
            self._ranker.cross_features(user, candidates, moving, prices),
            item_index=candidates.item_index,
        )
        score = (output.order @ self._weights)[0]
        best, order = score.sort(descending=True)
        return ScoredItems(rows[order.numpy()], best.numpy())


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
