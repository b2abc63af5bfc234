"""Event ids that a second conversion gives again.

An id is a hash of the data set's name, the kind and the row's content, with a running number among
rows of equal content. It does not depend on the place of the row in its file, on the other rows or
on ``shift_ms``: rows added to a file later get new ids and change none, and sending a data set
twice counts every event once.
"""

from __future__ import annotations

from hashlib import blake2b

import polars as pl

_NOT_CONTENT = ("event_id", "source", "file", "row", "__first_seen", "__born_first_seen")
_DIGEST_BYTES = 12
"""96 bits: among a billion events the chance of any collision is below one in 10^11."""


def with_event_ids(frame: pl.DataFrame, dataset: str, kind: str) -> pl.DataFrame:
    """Fill the nulls of ``event_id``; ids given by the data set stay as they are."""
    if frame.height == 0 or frame["event_id"].null_count() == 0:
        return frame
    # Sorted, so that neither the order nor the absence of optional columns changes an id.
    columns = sorted(c for c in frame.columns if c not in _NOT_CONTENT)
    content = frame.select(
        pl.concat_str(
            [_as_text(name, frame.schema[name]) for name in columns], separator="\x1f"
        ).alias("content")
    ).with_columns(occurrence=pl.int_range(pl.len()).over("content"))
    seed = f"{dataset}\x1f{kind}".encode()
    key = blake2b(seed, digest_size=32).digest()
    ids = [
        blake2b(f"{text}\x1f{number}".encode(), digest_size=_DIGEST_BYTES, key=key).hexdigest()
        for text, number in zip(content["content"], content["occurrence"], strict=True)
    ]
    return frame.with_columns(event_id=pl.col("event_id").fill_null(pl.Series(ids)))


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        if dtype.inner.is_float():
            column = (column.cast(pl.List(pl.Float64)) * 1e6).cast(pl.List(pl.Int64))
        text = column.cast(pl.List(pl.String)).list.join("\x1e", ignore_nulls=True)
    elif dtype.is_float():
        # Millionths as a whole number: how a float is written may change between releases.
        text = (column.cast(pl.Float64) * 1e6).round().cast(pl.Int64, strict=False).cast(pl.String)
    else:
        text = column.cast(pl.String)
    # A column that is null for every row must hash like a column that is not there.
    return pl.when(text.is_not_null()).then(pl.lit(f"{name}=") + text).otherwise(pl.lit(""))
