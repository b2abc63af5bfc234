"""Plans and event streams for the feature tests."""

from __future__ import annotations

import numpy as np

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.features import names
from recsys.features.plan import Aggregate, Feature, Plan, ValueType, View

_FUNCTIONS = ("count", "sum", "mean", "min", "max", "last")


def aggregate_view(name: str, keys: tuple[str, ...], aggregates: tuple[Aggregate, ...]) -> View:
    return View(
        name=name,
        join_keys=keys,
        features=tuple(feature(name, a.name, "float32") for a in aggregates),
        ttl_ms=max(a.window_ms for a in aggregates),
        aggregates=aggregates,
    )


def feature(view: str, name: str, type_: ValueType) -> Feature:
    import mmh3

    return Feature(name=name, type=type_, field=mmh3.hash(f"{view}:{name}", signed=False))


def aggregates(columns: tuple[str, ...]) -> tuple[Aggregate, ...]:
    spans = ((HOUR_MS, 5 * MINUTE_MS), (DAY_MS, HOUR_MS), (7 * DAY_MS, DAY_MS), (3000, 1000))
    return tuple(
        Aggregate(
            name=f"{column}_{function}_{window}_{slide}",
            column=column,
            function=function,  # type: ignore[arg-type]
            window_ms=window,
            slide_ms=slide,
        )
        for column in columns
        for function in _FUNCTIONS
        for window, slide in spans
    )


def small_plan(project: str = "test") -> Plan:
    """Give a plan with every function over every kind of column."""

    def fields(view: str, **types: ValueType) -> tuple[Feature, ...]:
        return tuple(feature(view, name, type_) for name, type_ in types.items())

    columns = ("interaction", "interaction__purchase", "impression", "feedback__like")
    return Plan(
        project=project,
        views=(
            aggregate_view(names.USER_ACTIVITY, ("user_id",), aggregates(columns)),
            aggregate_view(names.ITEM_ACTIVITY, ("item_id",), aggregates(columns)),
            aggregate_view(
                names.USER_CATEGORY_ACTIVITY, ("category", "user_id"), aggregates(("interaction",))
            ),
            View(
                name=names.USER_HISTORY,
                join_keys=("user_id",),
                features=fields(
                    names.USER_HISTORY,
                    counts="int64_list", item_ids="string_list", last_ms="int64_list",
                ),
                ttl_ms=0,
            ),
            View(
                name=names.USER_PROFILE,
                join_keys=("user_id",),
                features=fields(names.USER_PROFILE, tokens="string_list"),
                ttl_ms=0,
            ),
            View(
                name=names.ITEM_PROFILE,
                join_keys=("item_id",),
                features=fields(
                    names.ITEM_PROFILE,
                    available="bool", born_ms="int64", category="string", price="float64",
                    title="string", tokens="string_list",
                ),
                ttl_ms=0,
            ),
        ),
        services={},
        definitions_hash="",
    )  # fmt: skip


def as_int64(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)
