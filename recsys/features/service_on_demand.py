"""On-demand features of a service, from what was read of its views and what the request brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import FeatureError
from recsys.features.feature_rows import Column, FeatureRows
from recsys.features.on_demand import AS_OF_MS, OnDemandView, evaluate
from recsys.features.plan import Plan
from recsys.features.value_columns import Mask, RaggedColumn


class ServiceOnDemand(NamedTuple):
    """What a service has of on-demand features that can be made of one kind of request."""

    views: tuple[OnDemandView, ...]
    wanted: frozenset[str]
    """``view:feature`` of the service; inputs that are not among them are not given."""
    inputs: tuple[str, ...]
    """``view:feature`` to read."""


def of_service(
    plan: Plan, service: str, given: frozenset[str], request: frozenset[str]
) -> ServiceOnDemand:
    """Give the on-demand views of ``service`` whose inputs are all there.

    Args:
        plan: where they are declared.
        service: a service of the plan.
        given: join keys of the request.
        request: fields of the request.
    """
    wanted = frozenset(plan.services[service])
    named = {name.partition(":")[0] for name in wanted}
    views = tuple(
        view
        for view in plan.on_demand
        if view.name in named
        and all(given.issuperset(plan.view(source).join_keys) for source in view.source_views)
        and all(":" in name or name in request or name == AS_OF_MS for name in view.inputs)
    )
    inputs = dict.fromkeys(name for view in views for name in view.inputs if ":" in name)
    return ServiceOnDemand(views, wanted, tuple(inputs))


def with_on_demand(
    rows: FeatureRows, made: ServiceOnDemand, request: Mapping[str, Any], now_us: int
) -> FeatureRows:
    """Add the on-demand features as columns, and take away what was read for them alone.

    Raises:
        InputError: when a field of the request is not of the length of the entities.
        FeatureError: when an input is a list, or a function does not fit.
    """
    if not made.views:
        return rows

    inputs: dict[str, npt.NDArray[Any]] = {
        AS_OF_MS: np.full(rows.num_rows, now_us // 1000, dtype=np.int64)
    }
    inputs |= {name: np.asarray(values) for name, values in request.items()}
    inputs |= {name: _nulls_marked(name, rows.column(name)) for name in made.inputs}
    columns = {name: column for name, column in rows.columns.items() if name in made.wanted}
    for view in made.views:
        for output, values in evaluate(view, inputs).items():
            if f"{view.name}:{output}" in made.wanted:
                mask = np.full(rows.num_rows, Mask.PRESENT, dtype=np.uint8)
                columns[f"{view.name}:{output}"] = Column(values, mask)
    kept = [n for n, name in enumerate(rows.float_names) if name in made.wanted]
    if len(kept) < len(rows.float_names):
        rows = rows._replace(
            float_names=tuple(rows.float_names[n] for n in kept),
            floats=rows.floats[:, kept],
            float_mask=rows.float_mask[:, kept],
        )
    return rows._replace(columns=columns)


def _nulls_marked(name: str, column: Column) -> npt.NDArray[Any]:
    """Give a column as functions want it: numbers with a null among them are floats with NaN."""
    values = column.values
    if isinstance(values, RaggedColumn):
        raise FeatureError(f'wanted scalars or vectors as inputs of on-demand views; "{name}" is a '
                           "list")  # fmt: skip
    absent = column.mask != Mask.PRESENT
    if absent.any() and values.dtype.kind in "iub":
        values = np.where(absent, np.nan, values.astype(np.float64))
    return values
