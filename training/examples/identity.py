"""The name of a set of examples: a hash of what they are made from, by what and how.

Inputs are the events; definitions are the feature plan, objectives and the recipe's part that
examples depend on; code is the text of every module that takes part. Equal names mean equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import polars as pl

from recsys.bundle.manifest import Objective
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.features.plan import Plan
from recsys.models.encode import UserEncoding
from training.checks import vocabulary_hash
from training.recipes import Recipe

_ROOT = Path(__file__).resolve().parents[2]
_CODE = (
    "recsys/data/*.py", "recsys/features/*.py", "recsys/features/audit/tensors.py",
    "recsys/feedback/*.py", "recsys/models/encode.py",
    "training/prepared.py", "training/questions.py", "training/shown_lists.py",
    "training/logged_lists.py", "training/prepare.py", "training/run_examples.py",
    "training/shapes.py", "training/examples/*.py",
)  # fmt: skip
_LIBRARIES = ("polars", "pyarrow", "numpy")


def parts_of(
    *,
    log: str,
    plan: Plan,
    recipe: Recipe,
    objectives: Sequence[Objective],
    encoding: UserEncoding,
    split: TimeSplit,
    vocabulary: Vocabulary,
    exposures: str | None = None,
) -> dict[str, str]:
    """Give what a set is made from, by name, each as a short text that changes when it does.

    Args:
        log: Identity of the events (``identity_of_log``).
        plan: Features.
        recipe: The run; its model and learning rates do not matter.
        objectives: Labels.
        encoding: Columns.
        split: Moments.
        vocabulary: Rows of items.
        exposures: Identity of the exposures that are read; None where features are joined.
    """
    towers, ranker = recipe.towers, asdict(recipe.ranker)
    for name in (
        "epochs", "batch_lists", "learning_rate", "weight_decay", "zero_start", "list_length",
    ):  # fmt: skip
        ranker.pop(name, None)
    how = {
        "seed": recipe.seed, "pause_ms": towers.pause_ms, "max_visits": towers.max_visits,
        "ranker": ranker,
    }  # fmt: skip
    answers = {} if exposures is None else {"exposures": exposures}
    return answers | {
        "log": log,
        "features": plan.schema_hash,
        "objectives": _hash([o.model_dump() for o in objectives]),
        "recipe": _hash(how),
        "columns": _hash(asdict(encoding)),
        "split": _hash(asdict(split)),
        "vocabulary": vocabulary_hash(vocabulary),
        "code": _code_hash(),
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES),
    }


def content_hash(parts: dict[str, str]) -> str:
    """Give sixteen hex digits over ``parts``."""
    return _hash(parts)


def identity_of_log(log: pl.DataFrame) -> str:
    """Give sixteen hex digits over events as they are in memory, in their order."""
    sha = _Sink()
    # Arrow's first layout: that of string views depends on which files the texts came from.
    log.rechunk().write_ipc_stream(sha, compat_level=pl.CompatLevel.oldest())  # type: ignore[arg-type]
    return sha.sha.hexdigest()[:16]


class _Sink:
    """A file that only remembers a hash."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""


def _code_hash() -> str:
    sha = hashlib.sha256()
    for pattern in _CODE:
        for path in sorted(_ROOT.glob(pattern)):
            sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:16]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
