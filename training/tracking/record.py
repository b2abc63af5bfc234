"""What is recorded of a run, read from its bundle: nothing is lost when it is recorded late."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recsys.bundle.manifest import Manifest, read_manifest
from training.report.write import HTML_FILE, JSON_FILE, report_folder

_ARTIFACTS = (
    "MODEL_CARD.md", "model_card.json", "metrics.json", "manifest.json", "training_curve.json",
)  # fmt: skip
"""Files that are kept beside the figures, if the bundle has them, as is its report. Weights stay in
the store."""


class Figure(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run."""

    bundle_id: str
    started_ms: int
    params: dict[str, str]
    """Fields of the recipe, ``towers.epochs`` for those of its parts."""
    figures: list[Figure]
    """Losses by epoch (``loss/towers``), final metrics (``new_items_only/served/recall_at_20``)."""
    tags: dict[str, str]
    """Identity of data, code and machine."""
    artifacts: list[Path]


def record_of(folder: Path) -> RunRecord:
    """Read what is to be recorded of the bundle in ``folder``, which lies in a bundle store.

    Raises:
        BundleError: when it is missing or damaged.
    """
    manifest = read_manifest(folder)
    report = report_folder(folder.parent, manifest.bundle_id)
    kept = [folder / name for name in _ARTIFACTS] + [report / HTML_FILE, report / JSON_FILE]
    return RunRecord(
        bundle_id=manifest.bundle_id,
        started_ms=manifest.created_ms,
        params={name: str(value) for name, value in flat(manifest.recipe_config)},
        figures=[*_losses(folder), *_finals(manifest)],
        tags=_tags(manifest),
        artifacts=[path for path in kept if path.is_file()],
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the leaves of nested tables with their paths, ``outer.inner``."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _losses(folder: Path) -> Iterator[Figure]:
    path = folder / "training_curve.json"
    if not path.is_file():
        return
    for row in json.loads(path.read_text()):
        yield Figure(_name(f"loss/{row['phase']}"), float(row["loss"]), int(row["epoch"]))


def _finals(manifest: Manifest) -> Iterator[Figure]:
    """Give all numbers of the metrics; an interval becomes two, ``…_low`` and ``…_high``."""
    parts = dict(manifest.metrics)
    if (logged := manifest.lineage.logged_features) is not None:
        parts["logged_features"] = logged.model_dump(mode="json")
    views = parts.pop("views", {})
    for path, value in flat({**views, **parts}):
        name = _name(path.replace(".", "/"))
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield Figure(name, float(value), 0)
        elif isinstance(value, list) and len(value) == 2 and path.endswith("_interval"):
            for end, number in zip(("low", "high"), value, strict=True):
                if isinstance(number, int | float):
                    yield Figure(f"{name.removesuffix('_interval')}_{end}", float(number), 0)


def _tags(manifest: Manifest) -> dict[str, str]:
    lineage = manifest.lineage
    return {
        "recsys.bundle_id": manifest.bundle_id,
        "recsys.recipe": manifest.recipe,
        "recsys.dataset": lineage.dataset,
        "recsys.data_hash": lineage.data_hash,
        "recsys.data_from_ms": str(lineage.data_from_ms),
        "recsys.data_until_ms": str(lineage.data_until_ms),
        "recsys.log_positions": json.dumps(lineage.log_positions, sort_keys=True),
        "recsys.num_events": str(lineage.num_events),
        "recsys.plan_schema_hash": manifest.plan_schema_hash,
        "recsys.code_version": lineage.code_version,
        "recsys.libraries": json.dumps(lineage.libraries, sort_keys=True),
        "recsys.device": lineage.device,
    }


def _name(text: str) -> str:
    """Give a metric's name in the letters MLflow allows."""
    text = text.replace("@", "_at_")
    return "".join(c if c.isalnum() or c in "_-./" else "_" for c in text)
