"""What a step may see of a recipe, and which code it runs: the two halves of "nothing changed".

A step whose key leaves a field out is given that field's default instead of its value, so it cannot
depend on what its key does not name.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from training.recipes import NeighbourFit, RankerTraining, Recipe, TowerTraining

_ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "numpy", "polars", "pyarrow", "ray")
_NO_PART = (
    "cli.py",
    "journal.py",
    "schedule.py",
    "manifests.py",
    "retry.py",
    "one_run.py",
    "status.py",
    "run.py",
    "state.py",
    "stop.py",
    "__init__.py",
)
"""Of this folder: what decides when and where, not what comes out."""

_NOT_OF_EXAMPLES: dict[str, tuple[str, ...]] = {
    "towers": ("epochs", "refit_epochs", "learning_rate", "weight_decay"),
    "ranker": ("epochs", "learning_rate", "weight_decay", "zero_start"),
    "neighbours": ("method", "penalty", "shrinkage", "num_neighbours"),
}
_NOT_OF_TOWERS: dict[str, tuple[str, ...]] = {
    "towers": ("refit_epochs",),
    "ranker": _NOT_OF_EXAMPLES["ranker"],
    "neighbours": _NOT_OF_EXAMPLES["neighbours"],
}
_HIDDEN: dict[str, dict[str, tuple[str, ...]]] = {
    "examples": _NOT_OF_EXAMPLES,
    "towers": _NOT_OF_TOWERS,
    "index": {"towers": _NOT_OF_EXAMPLES["towers"], "ranker": _NOT_OF_EXAMPLES["ranker"]},
    "refit": {"ranker": _NOT_OF_EXAMPLES["ranker"]},
}
_DEFAULTS: dict[str, Any] = {
    "towers": TowerTraining(),
    "ranker": RankerTraining(),
    "neighbours": NeighbourFit(),
}


def visible(recipe: Recipe, step: str) -> Recipe:
    """Give the recipe as a step sees it: what only later steps use is at its default."""
    hidden = _HIDDEN.get(step, {})
    for part, names in hidden.items():
        changes = {name: getattr(_DEFAULTS[part], name) for name in names}
        recipe = replace(recipe, **{part: replace(getattr(recipe, part), **changes)})
    return recipe


def recipe_part(recipe: Recipe, step: str) -> dict[str, Any]:
    """Give the same as plain values, for the step's key."""
    return asdict(visible(recipe, step))


@cache
def code_identity() -> str:
    """Give a hash of all code that decides what a run makes, and of the libraries under it."""
    digest = hashlib.sha256()
    for package in ("recsys", "training"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            relative = path.relative_to(_ROOT)
            if relative.parts[:2] == ("training", "tracking"):
                continue
            if relative.parts[:2] == ("training", "pipeline") and path.name in _NO_PART:
                continue
            digest.update(str(relative).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name in _LIBRARIES:
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    return digest.hexdigest()[:20]


def _check_names() -> None:
    """A renamed field must not go on being hidden under its old name."""
    for hidden in _HIDDEN.values():
        for part, names in hidden.items():
            known = {f.name for f in fields(_DEFAULTS[part])}
            assert set(names) <= known, (part, names)


_check_names()
