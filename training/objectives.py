"""What a run predicts and how it is judged: from the mapping, or from the log's own types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.bundle.manifest import Objective
from recsys.datasets.load import load_mapping
from recsys.datasets.mapping import DatasetMapping
from recsys.errors import InputError

SIMULATED = "simulated"
"""The simulated world has no tables and so no mapping: its log says what can be learned."""
MAX_OBJECTIVES = 4
"""Types learned from a log without a mapping; the rarest are left out."""
MIN_EVENTS = 50
"""Fewer events of a type teach nothing."""


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What the data are used for."""

    name: str
    objectives: tuple[Objective, ...]
    views: tuple[str, ...]
    k: int
    relevant_type: str
    test_from_ms: int | None
    """None: the recipe's share of the log's end."""


def objectives_of(dataset: str, log: pl.DataFrame) -> Purpose:
    """Give the purpose of a data set: by its mapping when there is one of that name or file.

    Raises:
        MappingError: when there is no such mapping or its file cannot be read.
        InputError: when the log has no interaction to learn from.
    """
    if dataset == SIMULATED:
        return _of_log(dataset, log)
    mapping = load_mapping(dataset)
    return _of_mapping(mapping) if mapping.objectives else _of_log(mapping.name, log)


def _of_mapping(mapping: DatasetMapping) -> Purpose:
    relevant = mapping.relevant_type
    assert relevant is not None
    return Purpose(
        name=mapping.name,
        objectives=tuple(
            Objective(
                name=o.name, interaction=o.interaction, weight=o.weight,
                min_value=None if o.min_value is None else float(o.min_value),
            )
            for o in mapping.objectives
        ),
        views=tuple(mapping.evaluation.views),
        k=mapping.evaluation.k,
        relevant_type=relevant,
        test_from_ms=mapping.split.test_from_ms if mapping.split else None,
    )  # fmt: skip


def _of_log(name: str, log: pl.DataFrame) -> Purpose:
    """Predict each frequent interaction type: the most frequent leads, rarer ones weigh less."""
    types = (
        log.filter(pl.col("kind") == "interaction")
        .group_by("type")
        .len()
        .filter(pl.col("len") >= MIN_EVENTS)
        .sort(["len", "type"], descending=[True, False])
        .head(MAX_OBJECTIVES)
    )
    if types.is_empty():
        raise InputError(
            f"the log has no interaction type with {MIN_EVENTS} events to learn from; replay more "
            "history, or name a mapping with --dataset"
        )
    names = types["type"].to_list()
    return Purpose(
        name=Path(name).stem,
        objectives=tuple(
            Objective(name=n, interaction=n, weight=1.0 if i == 0 else 0.5)
            for i, n in enumerate(names)
        ),
        views=("repeats_allowed", "new_items_only"),
        k=20,
        relevant_type=names[0],
        test_from_ms=None,
    )
