"""One approximate index, built, tuned and timed: hnswlib, usearch, ScaNN or faiss.

Usage::

    python job.py build ENGINE FOLDER    # builds, finds the cheapest setting of enough recall
    python job.py time ENGINE FOLDER     # times that setting, a pass for each line it is sent

Runs in an environment of its own (``requirements.txt``); ``ours`` and ``faiss-*`` run in
ours. FOLDER holds
``items.npy`` ``[N, D]``, ``tuning.npy`` and ``queries.npy`` ``[Q, D]`` with the exact answers
``*_truth.npy`` ``[Q, k]`` (``benchmarks/retrieval/peers.py`` makes them). The setting is chosen on
``tuning``, recall and times are those of ``queries``. ``build`` prints one line of JSON; ``time``
one on what it has loaded, and one for each line ``USERS THREADS`` that comes in.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

RECALL = 0.99
K = 100
THREADS = 2
"""Of building."""
_MARGIN = 0.0005
"""Asked for beyond RECALL in tuning, so that other queries have it as well."""
_ROOM = 1_000
"""For items to come."""


class Hnswlib:
    """Malkov & Yashunin's own graph."""

    links, care = 16, 150
    """Of a node (M), and ef_construction."""
    settings: ClassVar[list[tuple[int, ...]]] = [
        (ef,) for ef in (120, 200, 340, 580, 1000, 1700, 2200, 2900, 5000)
    ]

    def __init__(self, path: Path, size: int, built: bool) -> None:
        import hnswlib

        self._path = path
        self._index = hnswlib.Index(space="ip", dim=size)
        if built:
            self._index.load_index(str(path))

    def build(self, items: np.ndarray) -> None:
        """Build over ``[N, D]`` and keep it on disk."""
        self._index.init_index(max_elements=len(items), ef_construction=self.care, M=self.links)
        self._index.add_items(items, num_threads=THREADS)
        self._index.save_index(str(self._path))

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``."""
        self._index.set_ef(setting[0])

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        """Give the places ``[Q, k]`` of what is near ``[Q, D]``."""
        return self._index.knn_query(queries, K, num_threads=threads)[0]


class WideHnswlib(Hnswlib):
    """The same with twice the links, which its documentation advises for high recall."""

    links, care = 32, 200


class Usearch:
    """The graph of usearch, vectors in bfloat16, which it is quicker with."""

    kind, links, care = "bf16", 16, 150
    """Of elements; links of a node (connectivity), and expansion_add."""
    settings: ClassVar[list[tuple[int, ...]]] = Hnswlib.settings

    def __init__(self, path: Path, size: int, built: bool) -> None:
        from usearch.index import Index

        self._path = path
        self._index = Index(
            ndim=size,
            metric="ip",
            dtype=self.kind,
            connectivity=self.links,
            expansion_add=self.care,
        )
        if built:
            self._index.load(str(path))

    def build(self, items: np.ndarray) -> None:
        """Build over ``[N, D]`` and keep it on disk."""
        self._index.add(np.arange(len(items)), items, threads=THREADS)
        self._index.save(str(self._path))

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``."""
        self._index.expansion_search = setting[0]

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        """Give the places ``[Q, k]`` of what is near ``[Q, D]``."""
        keys = self._index.search(queries, K, threads=threads).keys
        return keys if keys.ndim == 2 else keys[np.newaxis]


class WideUsearch(Usearch):
    """The same with twice the links and vectors as they are, for a recall bfloat16 cannot have."""

    kind, links, care = "f32", 32, 200


class Scann:
    """ScaNN: a tree, anisotropic quantisation, and rescoring of the best."""

    settings: ClassVar[list[tuple[int, ...]]] = [
        (leaves, kept)
        for leaves in (60, 90, 130, 180, 260, 380, 520)
        for kept in (400, 700, 1000, 1500, 2200)
    ]

    def __init__(self, path: Path, size: int, built: bool) -> None:
        import scann

        self._path = path
        self._setting: tuple[int, ...] = (0, 0)
        if built:
            self._index = scann.scann_ops_pybind.load_searcher(str(path))

    def build(self, items: np.ndarray) -> None:
        """Build over ``[N, D]`` and keep it on disk."""
        import scann

        builder = scann.scann_ops_pybind.builder(items, K, "dot_product")
        builder = builder.set_n_training_threads(THREADS)
        self._index = (
            builder.tree(num_leaves=2000, num_leaves_to_search=100, training_sample_size=250_000)
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(400)
            .build()
        )
        self._path.mkdir(exist_ok=True)
        self._index.serialize(str(self._path))

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``."""
        self._setting = setting

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        """Give the places ``[Q, k]`` of what is near ``[Q, D]``."""
        leaves, kept = self._setting
        if len(queries) == 1:
            found = self._index.search(queries[0], K, kept, leaves)[0]
            return found[np.newaxis]
        if threads == 1:
            return self._index.search_batched(queries, K, kept, leaves)[0]
        self._index.set_num_threads(threads)
        return self._index.search_batched_parallel(queries, K, kept, leaves, 16)[0]


class _Faiss:
    """An index of faiss by its factory's name."""

    factory = ""
    settings: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self, path: Path, size: int, built: bool) -> None:
        import faiss

        self._path = path
        self._size = size
        self._faiss = faiss
        if built:
            self._index = faiss.read_index(str(path))

    def build(self, items: np.ndarray) -> None:
        """Build over ``[N, D]`` and keep it on disk."""
        faiss = self._faiss
        faiss.omp_set_num_threads(THREADS)
        self._index = faiss.index_factory(self._size, self.factory, faiss.METRIC_INNER_PRODUCT)
        self.prepare()
        self._index.train(items[:: max(len(items) // 250_000, 1)])
        self._index.add(items)
        faiss.write_index(self._index, str(self._path))

    def prepare(self) -> None:
        """Set what the factory's name does not say."""

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        """Give the places ``[Q, k]`` of what is near ``[Q, D]``."""
        self._faiss.omp_set_num_threads(threads)
        return self._index.search(queries, K)[1]


class FaissHnsw(_Faiss):
    """The graph of faiss."""

    factory = "HNSW16"
    settings: ClassVar[list[tuple[int, ...]]] = Hnswlib.settings

    def prepare(self) -> None:
        """Build with more care than by default."""
        self._index.hnsw.efConstruction = 150

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``."""
        self._index.hnsw.efSearch = setting[0]


class FaissIvf(_Faiss):
    """Inverted lists of 4-bit product codes, read by vector instructions, and rescoring."""

    factory = "IVF2048,PQ32x4fsr,RFlat"
    settings: ClassVar[list[tuple[int, ...]]] = Scann.settings

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``."""
        probes, kept = setting
        self._index.k_factor = kept / K
        self._faiss.downcast_index(self._index.base_index).nprobe = probes


class FaissIvfFine(FaissIvf):
    """The same with four bits for each element, which needs fewer rescored."""

    factory = "IVF4096,PQ64x4fsr,RFlat"
    settings: ClassVar[list[tuple[int, ...]]] = [
        (probes, kept)
        for probes in (30, 45, 65, 90, 130, 180, 260)
        for kept in (150, 200, 250, 300, 400, 600)
    ]


class FaissIvfGraph(FaissIvfFine):
    """The same with cells chosen by a graph of their centres, as its guide has it for many."""

    factory = "IVF4096_HNSW32,PQ64x4fsr,RFlat"

    def prepare(self) -> None:
        """Build with more care than by default."""
        self._cells().hnsw.efConstruction = 200

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``; two and a half times as many centres are looked at."""
        super().use(setting)
        self._cells().hnsw.efSearch = setting[0] * 5 // 2

    def _cells(self) -> Any:
        faiss = self._faiss
        return faiss.downcast_index(faiss.downcast_index(self._index.base_index).quantizer)


class FaissIvfCoded(FaissIvfFine):
    """The same lists with cells chosen as ours are: by codes of centres, then by twice as many."""

    def build(self, items: np.ndarray) -> None:
        """Build over ``[N, D]`` and keep it on disk."""
        super().build(items)
        faiss = self._faiss
        lists = faiss.downcast_index(self._index.base_index)
        centres = lists.quantizer.reconstruct_n(0, lists.nlist)
        codes = faiss.IndexPQFastScan(self._size, self._size, 4, faiss.METRIC_INNER_PRODUCT)
        codes.train(centres)
        codes.add(centres)
        chooser = faiss.IndexRefineFlat(codes, faiss.swig_ptr(centres))
        chooser.k_factor = 2
        lists.quantizer = chooser
        faiss.write_index(self._index, str(self._path))
        self._index = faiss.read_index(str(self._path))  # which owns its parts


class FaissIvfSq(_Faiss):
    """Inverted lists of 8-bit elements, and rescoring."""

    factory = "IVF4096,SQ8,RFlat"
    settings: ClassVar[list[tuple[int, ...]]] = [
        (probes, kept) for probes in (30, 45, 65, 90, 130, 180, 260) for kept in (120, 150, 200)
    ]

    use = FaissIvf.use


class Ours:
    """What a bundle with an index searches by, filters and scoring anew included."""

    settings: ClassVar[list[tuple[int, ...]]] = [()]
    """Chosen when it is built, on the same users."""
    margin = 0.0015
    """Asked for beyond RECALL: of users it was not set on it finds a thousandth less."""
    first = 1
    """What it calls the first item: row 0 is padding."""

    def __init__(self, path: Path, size: int, built: bool) -> None:
        import torch

        from recsys.compression.item_vectors import Float32Vectors
        from recsys.retrieval.excluded import Excluded
        from recsys.retrieval.row_changes import RowChanges
        from recsys.retrieval.source import SourceInputs
        from recsys.retrieval.two_tower import TwoTowerSource
        from recsys.retrieval.vector_index import read_index

        self._torch, self._inputs, self._excluded = torch, SourceInputs, Excluded
        self._threads, self._nobody = 0, torch.zeros(0, 0, dtype=torch.int64)
        self._path, self._beside = path, path.with_suffix(".oversample.json")
        if built:
            items = torch.from_numpy(np.load(path.parent / "items.npy"))
            vectors = torch.cat([torch.zeros(1, size), items])
            self._vectors = Float32Vectors(vectors)
            self._vectors.make_room(_ROOM)  # as the model server holds them
            self._unavailable = torch.arange(len(vectors)) == 0
            self._activity, self._changes = torch.zeros(len(vectors), 1), RowChanges()
            oversample = json.loads(self._beside.read_text())
            index = read_index(path, num_items=len(items), oversample=oversample)
            self._source = TwoTowerSource(index)
            self._mode = torch.inference_mode()  # the model server's, around all it does
            self._mode.__enter__()

    def build(self, items: np.ndarray) -> None:
        """Build over ``[N, D]`` and keep it on disk."""
        import torch

        from recsys.retrieval.index_build import IndexConfig, build_index
        from recsys.retrieval.index_recall import UserKind

        users = torch.from_numpy(np.load(self._path.parent / "tuning.npy"))
        vectors = torch.cat([torch.zeros(1, items.shape[1]), torch.from_numpy(items)])
        kinds = [UserKind(name="tuning", vectors=users)]
        config = IndexConfig(k=K, recall=RECALL + self.margin)
        index = build_index(vectors, kinds, config).index
        index.write(self._path)
        self._beside.write_text(json.dumps(index.oversample))
        self.__init__(self._path, items.shape[1], True)  # type: ignore[misc]

    def use(self, setting: tuple[int, ...]) -> None:
        """Take a setting of ``settings``."""

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        """Give the rows ``[Q, k]`` of what is near ``[Q, D]``, counted from ``first``."""
        torch = self._torch
        if self._threads != threads:  # a server sets it once
            torch.set_num_threads(threads)
            self._threads = threads
        if len(self._nobody) != len(queries):
            self._nobody = torch.zeros(len(queries), 0, dtype=torch.int64)
        given = self._inputs(
            user={}, user_vectors=torch.from_numpy(queries), item_vectors=self._vectors,
            item_activity=self._activity, item_changes=self._changes,
        )  # fmt: skip
        excluded = self._excluded(self._unavailable, self._nobody)
        return self._source.search(given, K, excluded).item.numpy()


ENGINES: dict[str, type[Any]] = {
    "ours": Ours,
    "hnswlib": Hnswlib,
    "hnswlib-wide": WideHnswlib,
    "usearch": Usearch,
    "usearch-wide": WideUsearch,
    "scann": Scann,
    "faiss-hnsw": FaissHnsw,
    "faiss-ivf-pq": FaissIvf,
    "faiss-ivf-pq-fine": FaissIvfFine,
    "faiss-ivf-pq-graph": FaissIvfGraph,
    "faiss-ivf-pq-coded": FaissIvfCoded,
    "faiss-ivf-sq": FaissIvfSq,
}


def found_by(index: Any, queries: np.ndarray, threads: int) -> np.ndarray:
    """Give the places ``[Q, k]`` of what an index finds, counted from 0."""
    places: np.ndarray = index.search(queries, threads) - getattr(index, "first", 0)
    return places


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Give the mean share of the true ``k`` that were found."""
    hits = [len(np.intersect1d(f, t)) for f, t in zip(found, truth, strict=True)]
    return float(np.mean(hits)) / truth.shape[1]


def memory_mb() -> float:
    """Give what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cost(index: Any, setting: tuple[int, ...], queries: np.ndarray) -> float:
    index.use(setting)
    start = time.perf_counter()
    for query in queries[:100]:
        index.search(query[np.newaxis], 1)
    return time.perf_counter() - start


def build(engine: str, folder: Path) -> dict[str, Any]:
    """Build an index, and keep its cheapest setting of enough recall beside it."""
    items = np.load(folder / "items.npy")
    queries, truth = np.load(folder / "tuning.npy"), np.load(folder / "tuning_truth.npy")
    index = ENGINES[engine](folder / engine, items.shape[1], False)
    start = time.perf_counter()
    index.build(items)
    built_s = time.perf_counter() - start
    seen = []
    for setting in index.settings:
        index.use(setting)
        seen.append((setting, recall(found_by(index, queries, THREADS), truth)))
    enough = [setting for setting, found in seen if found >= RECALL + _MARGIN]
    best = min(enough, key=lambda setting: _cost(index, setting, queries), default=None)
    (folder / f"{engine}.json").write_text(json.dumps({"setting": best, "build_s": built_s}))
    return {"engine": engine, "build_s": built_s, "setting": best, "recalls": seen}


def loaded(engine: str, folder: Path, queries: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Load an index and say what it is; its recall is None where no setting had enough."""
    chosen = json.loads((folder / f"{engine}.json").read_text())
    about = {"engine": engine, **chosen, "recall": None}
    if chosen["setting"] is None:
        return None, about
    before_mb = memory_mb()
    index = ENGINES[engine](folder / engine, queries.shape[1], True)
    index.use(tuple(chosen["setting"]))
    about["recall"] = recall(found_by(index, queries, 1), np.load(folder / "queries_truth.npy"))
    about["memory_mb"] = memory_mb() - before_mb
    return index, about


def passed(index: Any, queries: np.ndarray, size: int, threads: int) -> dict[str, float]:
    """Ask for all users, so many in a call; give the median microseconds for each user."""
    times = []
    for begin in _batches(len(queries), size):
        start = time.perf_counter()
        index.search(queries[begin : begin + size], threads)
        times.append((time.perf_counter() - start) / size)
    return {"us": float(np.median(times)) * 1e6}


def _batches(count: int, size: int) -> Iterator[int]:
    yield from range(0, count - size + 1, size)


def main(verb: str, engine: str, folder: Path) -> None:
    """Do what ``verb`` says."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if verb == "build":
        print(json.dumps(build(engine, folder)), flush=True)
        return
    queries = np.load(folder / "queries.npy")
    index, about = loaded(engine, folder, queries)
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        size, threads = map(int, line.split())
        print(json.dumps(passed(index, queries, size, threads)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
