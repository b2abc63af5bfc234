"""Every system ours is compared with: on what, by which command, in which environment.

``python -m benchmarks peers`` prints it; a test holds each to a pinned version and a module that
runs, or to a stated reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import pinned

FOLDER = Path(__file__).parent
PROJECT_LOCK = FOLDER.parent.parent / "requirements" / "all.lock"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One system in one role; a library compared on two things is two."""

    name: str
    distribution: str
    """As package registries call it."""
    compared_on: str
    command: str
    """Runs it beside ours, after ``python -m``."""
    settings: str
    """What it runs with: its best documented settings for this work."""
    page: str
    """Of docs, with the figures."""
    environment: str | None = None
    """A folder beside this file with a lock; None: the environment of this project."""
    reason: str = ""
    """Why it is not run, where it is not."""

    @property
    def lock(self) -> Path:
        """The file that pins it."""
        return FOLDER / self.environment / "requirements.txt" if self.environment else PROJECT_LOCK

    @property
    def version(self) -> str:
        """The pinned version; empty for one that is not run."""
        return "" if self.reason else pinned(self.lock, self.distribution)

    @property
    def module(self) -> str:
        """The module of the command."""
        return self.command.split()[0]


_READS = "reading a user's and 500 items' features"
_JOINS = "point-in-time joins"
_WINDOWS = "windowed aggregates from a topic"
_FACTORS = "training cost and quality of collaborative filtering"
_SEARCH = "approximate search at recall@100 ≥ .99"
_SEARCH_COMMAND = "benchmarks.retrieval.search --peers"
_REQUEST = "the whole request path"
_SERVING_COMMAND = "benchmarks.peers.serving"

PEERS = (
    Peer(
        name="Feast SDK",
        distribution="feast",
        compared_on=_READS,
        command="benchmarks.features.online_read",
        settings="Redis, file registry cached for a day, one store in the process, one call for "
        "each entity, garbage collector frozen; scalar features, and one vector",
        page="online-store.md",
    ),
    Peer(
        name="Feast feature server",
        distribution="feast",
        compared_on=_READS,
        command="benchmarks.features.online_read",
        settings="HTTP, one worker that is never restarted, registry cached for a day, no access "
        "log, one connection kept open; its answers decoded by msgspec",
        page="peers.md",
    ),
    Peer(
        name="Feast DuckDB store",
        distribution="feast",
        compared_on=_JOINS,
        command="benchmarks.features.offline_join",
        settings="as it comes, torch hidden from its imports; the answer as an Arrow table",
        page="offline-store.md",
    ),
    Peer(
        name="Feast file store",
        distribution="feast",
        compared_on=_JOINS,
        command="benchmarks.features.offline_join",
        settings="",
        page="offline-store.md",
        reason="Feast's default (Dask) gives other answers: labels that share key and time, or "
        "whose rows are all later or expired, are lost (Feast's issue 6787), so there is no time "
        "to compare",
    ),
    Peer(
        name="Polars",
        distribution="polars",
        compared_on=_JOINS,
        command="benchmarks.features.offline_join",
        settings="`join_asof` by key with a tolerance, both sides sorted by event and created time",
        page="offline-store.md",
    ),
    Peer(
        name="pandas",
        distribution="pandas",
        compared_on=_JOINS,
        command="benchmarks.features.offline_join",
        settings="`merge_asof` by key with a tolerance, both sides sorted, text as categories",
        page="peers.md",
    ),
    Peer(
        name="DuckDB",
        distribution="duckdb",
        compared_on=_JOINS,
        command="benchmarks.features.offline_join",
        settings="`ASOF LEFT JOIN` over the Parquet files, of each key and time the row created "
        "last (`QUALIFY`), as many threads as cores",
        page="peers.md",
    ),
    Peer(
        name="Quix Streams",
        distribution="quixstreams",
        compared_on=_WINDOWS,
        command="benchmarks.features.stream_peers",
        settings="RocksDB state, no changelog topic, `current()` results, one `agg` a window",
        page="peers.md",
        environment="quix_streams",
    ),
    Peer(
        name="Bytewax",
        distribution="bytewax",
        compared_on=_WINDOWS,
        command="benchmarks.features.stream_peers",
        settings="one worker, batches of 1,000, `ordered=False`, no recovery store; its sliding "
        "windows, and buckets by hand in `stateful_map`",
        page="peers.md",
        environment="bytewax",
    ),
    Peer(
        name="faiss",
        distribution="faiss-cpu",
        compared_on=_SEARCH,
        command=_SEARCH_COMMAND,
        settings="HNSW16 with efConstruction 150; IVF2048,PQ32x4fsr,RFlat; "
        "IVF4096,PQ64x4fsr,RFlat; IVF4096,SQ8,RFlat; efSearch, nprobe and k_factor chosen for the "
        "recall",
        page="retrieval.md",
    ),
    Peer(
        name="hnswlib",
        distribution="hnswlib",
        compared_on=_SEARCH,
        command=_SEARCH_COMMAND,
        settings="inner product, M 16 and ef_construction 150, and M 32 and 200; ef chosen for the "
        "recall",
        page="retrieval.md",
        environment="ann",
    ),
    Peer(
        name="usearch",
        distribution="usearch",
        compared_on=_SEARCH,
        command=_SEARCH_COMMAND,
        settings="inner product, bfloat16 with connectivity 16 and expansion_add 150, and float32 "
        "with 32 and 200; expansion_search chosen for the recall",
        page="retrieval.md",
        environment="ann",
    ),
    Peer(
        name="ScaNN",
        distribution="scann",
        compared_on=_SEARCH,
        command=_SEARCH_COMMAND,
        settings="2,000 leaves, asymmetric hashing of 2 dimensions with threshold 0.2, reordering; "
        "leaves searched and reordered chosen for the recall",
        page="retrieval.md",
        environment="ann",
    ),
    Peer(
        name="RecBole",
        distribution="recbole",
        compared_on="training speed of a sequence model",
        command="benchmarks.training.sequences",
        settings="its SASRec with cross-entropy, anomaly detection switched off; `enable_amp` for "
        "bfloat16",
        page="training-speed.md",
        environment="recbole",
    ),
    Peer(
        name="TorchRec",
        distribution="torchrec",
        compared_on="training speed of DLRM, DCN and towers",
        command="benchmarks.training.ranker",
        settings="FBGEMM's fused tables with row-wise Adagrad in the backward pass",
        page="training-speed.md",
        environment="torchrec",
    ),
    Peer(
        name="TorchRec on CUDA",
        distribution="torchrec",
        compared_on="training speed of DLRM, DCN and towers",
        command="benchmarks.training.ranker --device cuda",
        settings="as TorchRec, with FBGEMM's CUDA build",
        page="training-speed.md",
        environment="torchrec_cuda",
    ),
    Peer(
        name="implicit",
        distribution="implicit",
        compared_on=_FACTORS,
        command="benchmarks.training.collaborative",
        settings="ALS, BPR, cosine and BM25 neighbours; one thread, one of OpenBLAS, settings "
        "around its defaults chosen on validation",
        page="peers.md",
        environment="implicit",
    ),
    Peer(
        name="LightFM (RecTools' fork)",
        distribution="rectools-lightfm",
        compared_on=_FACTORS,
        command="benchmarks.training.collaborative",
        settings="WARP and BPR; one thread, Adagrad, settings around its defaults chosen on "
        "validation",
        page="peers.md",
        environment="lightfm",
    ),
    Peer(
        name="LightFM itself",
        distribution="lightfm",
        compared_on=_FACTORS,
        command="benchmarks.training.collaborative",
        settings="",
        page="peers.md",
        reason="its last release, 1.17 of 2023, has no wheels and does not build: setup.py fails "
        "with `'dict' object has no attribute '__LIGHTFM_SETUP__'` (its issue 687); the fork is "
        "the same package, kept building",
    ),
    Peer(
        name="One process",
        distribution="fastapi",
        compared_on=_REQUEST,
        command="benchmarks.loadtest.throughput peer",
        settings="FastAPI and uvicorn (uvloop, httptools), Feast's SDK, torch and faiss",
        page="load.md",
    ),
    Peer(
        name="Ray Serve",
        distribution="ray",
        compared_on=_REQUEST,
        command=_SERVING_COMMAND,
        settings="HAProxy for ingress, RAY_SERVE_THROUGHPUT_OPTIMIZED, a replica for each core, "
        "max_ongoing_requests 100, `@serve.batch` of at most 8 without a wait, no access log",
        page="load.md",
        environment="ray_serve",
    ),
    Peer(
        name="BentoML",
        distribution="bentoml",
        compared_on=_REQUEST,
        command=_SERVING_COMMAND,
        settings="a worker for each core, one thread in each, no access log; with adaptive "
        "batching of at most 8 in the workers, behind a service of one process, and without",
        page="load.md",
        environment="bentoml",
    ),
    Peer(
        name="LitServe",
        distribution="litserve",
        compared_on=_REQUEST,
        command=_SERVING_COMMAND,
        settings="",
        page="load.md",
        reason="BentoML stands for both, which has the better upkeep; 0.2.19 ignores `fast_queue`, "
        "its own setting for many requests (its issue 751)",
    ),
)


def find(name: str) -> Peer | None:
    """Give the first peer of a name or of an environment's folder, whatever its case."""
    wanted = name.casefold()
    known = ((p, (p.name.casefold(), p.environment)) for p in PEERS)
    return next((peer for peer, names in known if wanted in names), None)
