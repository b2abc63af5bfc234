"""Whether the log is worth learning from, found out before any training time is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from recsys.clock import HOUR_MS
from recsys.errors import InputError
from recsys.events.log_verify import verify
from recsys.events.topics import Topics
from recsys.features.quality.moments import spelt
from recsys.settings import Settings
from training.pipeline.definition import DataBounds

_SHOWN_PROBLEMS = 5


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What was found."""

    num_events: int
    """Events that are no items."""
    num_users: int
    num_items: int
    from_ms: int
    until_ms: int
    """Event times of the first and the last of them."""
    repeated_share: float
    """Of events whose id was there before."""
    unknown_item_share: float
    """Of interactions with items that no item event names."""

    def said(self) -> str:
        """Give the facts in one line."""
        more = f", {self.repeated_share:.1%} of them repeated" if self.repeated_share else ""
        if self.unknown_item_share:
            more += f", {self.unknown_item_share:.1%} of interactions with items nothing is said of"
        return (
            f"{self.num_events:,} events of {self.num_users:,} users, {self.num_items:,} items, "
            f"{spelt(self.from_ms)} to {spelt(self.until_ms)}{more}"
        )

    def as_json(self) -> dict[str, Any]:
        """Give plain values."""
        return dict(vars(self))


def check_log_files(settings: Settings, bounds: DataBounds) -> None:
    """Prove that the event log has no gap and no damage, as far as the bounds ask for it.

    Raises:
        InputError: naming the first problems.
    """
    if bounds.verify_log == "no":
        return
    topics = Topics(namespace=settings.namespace)
    found = verify(
        settings.event_log_dir, [topics.items, topics.behaviour],
        deep=bounds.verify_log == "deep",
    )  # fmt: skip
    if not found.is_sound:
        shown = "; ".join(found.problems[:_SHOWN_PROBLEMS])
        raise InputError(
            f"the event log at {settings.event_log_dir} has {len(found.problems)} problems: "
            f"{shown}; `recsys log verify` lists them all"
        )


def check_data(log: pl.DataFrame, bounds: DataBounds, *, now_ms: int) -> DataFacts:
    """Compare the log with the bounds.

    Raises:
        InputError: naming every bound that does not hold, with what was found.
    """
    facts = facts_of(log)
    wrong = [
        f"{found} {what}, wanted {least} or more"
        for what, found, least in (
            ("events", facts.num_events, bounds.min_events),
            ("users", facts.num_users, bounds.min_users),
            ("items", facts.num_items, bounds.min_items),
        )
        if found < least
    ]
    if facts.repeated_share > bounds.max_repeated_share:
        wrong.append(
            f"{facts.repeated_share:.1%} of events have an id that was there before, wanted at "
            f"most {bounds.max_repeated_share:.1%}"
        )
    age_hours = (now_ms - facts.until_ms) / HOUR_MS
    if bounds.max_age_hours is not None and age_hours > bounds.max_age_hours:
        wrong.append(
            f"the newest event is {age_hours:.1f} hours old, wanted at most "
            f"{bounds.max_age_hours:g}: is the worker that writes the log at work?"
        )
    if wrong:
        raise InputError(
            f"the data are not fit to learn from: {'; '.join(wrong)}; replay more history, or "
            "change [data] in the pipeline's definition"
        )
    return facts


def facts_of(log: pl.DataFrame) -> DataFacts:
    """Count what the bounds are about."""
    acts = log.filter(pl.col("kind") != "item")
    interactions = log.filter(pl.col("kind") == "interaction")
    items = log.filter(pl.col("kind") == "item")["item_id"].drop_nulls().unique()
    known = interactions["item_id"].is_in(items.implode())
    ids = log["event_id"].drop_nulls()
    return DataFacts(
        num_events=len(acts),
        num_users=acts["user_id"].drop_nulls().n_unique() if len(acts) else 0,
        num_items=pl.concat([items, interactions["item_id"].drop_nulls()]).n_unique(),
        from_ms=_whole(acts["event_time_ms"].min()),
        until_ms=_whole(acts["event_time_ms"].max()),
        repeated_share=round(1 - ids.n_unique() / len(ids), 6) if len(ids) else 0.0,
        unknown_item_share=round(1 - float(known.sum()) / len(known), 6) if len(known) else 0.0,
    )


def _whole(value: Any) -> int:
    return 0 if value is None else int(value)
