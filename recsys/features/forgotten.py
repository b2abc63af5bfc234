"""Rows of users who were forgotten since: gone for whoever reads the log, erased yet or not.

A ``forget`` record erases what its partition holds of the user before it. Item features of the
stream keep what those rows added, without a name; computed anew from the log they lack it.
"""

from __future__ import annotations

import polars as pl

_PLACE = ["topic", "partition"]


def forget_records(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Give ``(topic, partition, user_id, forgotten)``: the last offset each user's rows go at."""
    forgets = rows.filter(pl.col("kind") == "forget")
    return forgets.group_by([*_PLACE, "user_id"]).agg(forgotten=pl.col("offset").max())


def without_forgotten(rows: pl.DataFrame, forgets: pl.DataFrame | None = None) -> pl.DataFrame:
    """Leave out what was forgotten, and the ``forget`` records themselves.

    Args:
        rows: Of the log, in its order. Without log positions the order of the rows stands for them.
        forgets: What ``forget_records`` gives; by default of these rows.
    """
    given = rows.columns
    if not {*_PLACE, "offset"} <= set(given):
        if not (rows["kind"] == "forget").any():
            return rows
        numbered = rows.drop([name for name in (*_PLACE, "offset") if name in given])
        numbered = numbered.with_row_index("offset").with_columns(
            pl.col("offset").cast(pl.Int64), topic=pl.lit(""), partition=pl.lit(0)
        )
        places = without_forgotten(numbered)["offset"]
        return rows[places.to_list()]
    if forgets is None:
        forgets = forget_records(rows.lazy()).collect()
    if forgets.is_empty():
        return rows
    joined = rows.join(forgets, on=[*_PLACE, "user_id"], how="left", maintain_order="left")
    gone = pl.col("offset") <= pl.col("forgotten").fill_null(-1)
    return joined.filter(~gone & (pl.col("kind") != "forget")).select(given)
