"""Exposures found again by the requests they answered, however many others the log holds.

Rows are some KB each, nearly all of it features. So requests are looked up in the narrow columns
first, and features are read of those rows alone that somebody wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from recsys.events.event_log import before
from recsys.feedback.carry_over import Tensors
from recsys.feedback.exposure import TensorRecord
from recsys.feedback.exposure_log import scan_exposures
from recsys.feedback.logging_bundles import logging_bundles

_PLACE = ("topic", "partition", "offset")
_NARROW = (
    *_PLACE, "request_id", "user_id", "now_ms", "bundle", "rung", "features_as_of_ms",
    "item_features_age_ms",
)  # fmt: skip
_CHUNK = 4_096
"""Rows whose features are read in one pass over their time: some 20 MB."""
_unpack = msgspec.msgpack.Decoder(dict[str, TensorRecord]).decode


@dataclass(frozen=True, kw_only=True)
class LoggedExposures:
    """The exposures of one system in the Parquet log."""

    log_dir: Path
    topic: str
    """Full name (``Topics.exposures``)."""
    bundle_dir: Path
    """Store of the bundles they were answered with."""
    positions: Mapping[str, int] | None = None
    """``topic:partition`` to the offset to stop before, where a run holds on to what it began with;
    a partition that is not named is empty then. None: all there is."""

    def of_requests(
        self, request_ids: Sequence[str], *, start_ms: int, end_ms: int
    ) -> tuple[pl.DataFrame, int]:
        """Find the exposures of requests answered in ``[start_ms, end_ms)``; features are not read.

        The log has each record once, but the API may have sent one twice. The first counts.

        Returns:
            A row for each request that has one, by time, and how many repetitions there were.
            Columns: its place in the log, ``request_id``, ``user_id``, ``now_ms``, ``bundle``,
            ``rung``, ``features_as_of_ms``, ``item_features_age_ms``.
        """
        wanted = pl.LazyFrame({"request_id": request_ids}, schema={"request_id": pl.String})
        found = (
            self._scan(start_ms, end_ms)
            .select(_NARROW)
            .join(wanted.unique(), on="request_id", how="semi")
            .collect(engine="streaming")
            .sort("now_ms", *_PLACE)
        )
        first = found.unique("request_id", keep="first", maintain_order=True)
        return first, len(found) - len(first)

    def bundle_ids(self) -> list[str]:
        """Give the bundles that answered and are still in the store, in order."""
        answered = self._scan(None, None).select(pl.col("bundle").unique())
        named = answered.collect(engine="streaming")["bundle"]
        return list(logging_bundles(self.bundle_dir, named))

    def with_features(self, found: pl.DataFrame) -> pl.DataFrame:
        """Give rows of ``of_requests``, in their order, with the column ``features``.

        It holds what the log holds (``tensors_of``); null where that went meanwhile.
        """
        parts = []
        for chunk in found.with_row_index("row").sort("now_ms").iter_slices(_CHUNK):
            start_ms, end_ms = chunk["now_ms"][0], chunk["now_ms"][-1] + 1
            read = (
                self._scan(start_ms, end_ms)
                .filter(pl.col("request_id").is_in(chunk["request_id"].to_list()))
                .select(*_PLACE, "features")
                .collect(engine="streaming")
            )
            parts.append(chunk.join(read, on=_PLACE, how="left"))
        if not parts:
            return found.with_columns(pl.lit(None, pl.Binary()).alias("features"))
        return pl.concat(parts).sort("row").drop("row")

    def _scan(self, start_ms: int | None, end_ms: int | None) -> pl.LazyFrame:
        rows = scan_exposures(self.log_dir, [self.topic], start_ms=start_ms, end_ms=end_ms)
        return rows if self.positions is None else rows.filter(before(self.positions))


def tensors_of(features: bytes | None) -> Tensors | None:
    """Give the tensors in a value of the column ``features``; None when they cannot be read."""
    try:
        records = _unpack(features or b"")
        return {name: record.array() for name, record in records.items()}
    except (msgspec.MsgspecError, ValueError):
        return None
