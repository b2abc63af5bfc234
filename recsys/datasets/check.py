"""Is this data set fit to use? Counts, time range and a PASS or FAIL for each kind of blemish.

Every check counts offending rows and wants none, unless the mapping's ``[check]`` allows a number
of them and says why. Rows that no event can hold (``bad_rows``, ``nulls``) are never converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import polars as pl

from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.mapping_use import CheckName
from recsys.datasets.readers import table_files
from recsys.datasets.tables import DatasetTables, to_tables
from recsys.events.schema import EVENT_KINDS, MAX_CLOCK_SKEW_MS

MEANINGS: dict[CheckName, str] = {
    "nulls": "rows where something required is missing",
    "bad_rows": "rows no event can hold: out of range, too long, unreadable",
    "duplicate_items": "rows repeating an item at the same time",
    "duplicate_users": "rows repeating a user at the same time",
    "duplicate_impressions": "lists repeating a request id",
    "duplicate_interactions": "rows repeating user, item, type, time, value and request",
    "duplicate_feedback": "rows repeating user, item, type, time, value and request",
    "duplicate_event_ids": "events repeating an event id",
    "repeated_items_in_list": "lists showing an item twice",
    "unknown_items": "rows naming an item that has no item event",
    "unknown_users": "rows of a user that has no user event",
    "unknown_requests": "rows pointing to a list that is not there",
    "interaction_outside_list": "rows on an item that was not in the list they point to",
    "interaction_before_list": "rows earlier than the list they point to",
    "future_times": "events later than now",
    "split_outside_data": "boundaries of [split] outside the time range",
}
_NUM_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: CheckName
    count: int
    """Offending rows."""
    allowed: int
    reason: str
    """Why so many are allowed, or why the check does not apply."""
    first: list[str]
    """The first offenders: file, row and what is wrong."""
    applies: bool = True

    @property
    def passed(self) -> bool:
        """Whether no more rows offend than are allowed."""
        return self.count <= self.allowed


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The state of one data set."""

    name: str
    folder: str
    counts: dict[str, int]
    """Events per kind."""
    types: dict[str, dict[str, int]]
    """Interaction and feedback events per type."""
    num_active_users: int
    """Users with at least one impression, interaction or feedback."""
    num_active_items: int
    first_ms: int
    """Time of the first impression, interaction or feedback."""
    last_ms: int
    findings: list[Finding]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, for JSON."""
        result = asdict(self)
        for written, finding in zip(result["findings"], self.findings, strict=True):
            written["passed"] = finding.passed
        return {**result, "passed": self.passed}


def check_dataset(mapping: DatasetMapping, data_dir: Path, *, now_ms: int) -> CheckReport:
    """Read a data set and judge it.

    Raises:
        MappingError: when it cannot be read at all.
    """
    return check_tables(mapping, to_tables(mapping, data_dir), data_dir, now_ms=now_ms)


def check_tables(
    mapping: DatasetMapping, tables: DatasetTables, data_dir: Path, *, now_ms: int
) -> CheckReport:
    """Judge tables already read."""
    acts = pl.concat([tables.interactions, tables.feedback], how="diagonal")
    shown = tables.impressions.select("event_time_ms", "user_id", pl.col("items").alias("item_id"))
    shown = shown.explode("item_id")
    behaved = pl.concat([shown, acts.select(shown.columns)])
    offences = dict(_offences(mapping, tables, acts, now_ms))
    allowed = {rule.check: rule for rule in mapping.check.allow}
    findings = []
    for check in get_args(CheckName):
        offence = offences[check]
        if isinstance(offence, str):
            findings.append(
                Finding(check=check, count=0, allowed=0, reason=offence, first=[], applies=False)
            )
            continue
        rule = allowed.get(check)
        findings.append(
            Finding(
                check=check,
                count=offence.height,
                allowed=rule.at_most if rule else 0,
                reason=rule.reason if rule else "",
                first=_first(mapping, data_dir, offence),
            )
        )
    times = behaved["event_time_ms"]
    return CheckReport(
        name=mapping.name,
        folder=str(mapping.data_folder(data_dir)),
        counts={kind: tables.of_kind(kind).height for kind in EVENT_KINDS},
        types={
            kind: dict(sorted(tables.of_kind(kind)["type"].value_counts().iter_rows()))
            for kind in ("interaction", "feedback")
        },
        num_active_users=behaved["user_id"].n_unique(),
        num_active_items=behaved["item_id"].n_unique(),
        first_ms=int(str(times.min())),
        last_ms=int(str(times.max())),
        findings=findings,
    )


def _offences(
    mapping: DatasetMapping, tables: DatasetTables, acts: pl.DataFrame, now_ms: int
) -> Iterator[tuple[CheckName, pl.DataFrame | str]]:
    """Give each check's offending rows (source, file, row, what), or why it does not apply."""
    bad = tables.bad_rows.with_columns(
        what=pl.col("reason") + pl.lit(" (found ") + pl.col("value").fill_null("nothing") + ")"
    ).sort("source", "file", "row")
    yield "nulls", bad.filter(pl.col("is_null"))
    yield "bad_rows", bad.filter(~pl.col("is_null"))
    for check, frame, subset in _duplicate_checks(tables):
        yield check, _repeats(frame, subset)
    ids = pl.concat(
        [tables.of_kind(k).select("event_id", "source", "file", "row") for k in EVENT_KINDS]
    )
    yield "duplicate_event_ids", _repeats(ids, ["event_id"])
    lists = tables.impressions
    twice = lists.filter(pl.col("items").list.n_unique() != pl.col("items").list.len())
    yield "repeated_items_in_list", _what(twice, pl.lit("request ") + pl.col("request_id"))
    yield "unknown_items", _unknown_items(mapping, tables, acts)
    if mapping.users is None:
        yield "unknown_users", "the mapping has no [users]"
    else:
        everyone = pl.concat(
            [f.select("user_id", "source", "file", "row") for f in (lists, acts)]
        ).join(tables.users, on="user_id", how="anti", maintain_order="left")
        yield "unknown_users", _what(everyone, pl.lit("user ") + pl.col("user_id"))
    yield from _pointing(mapping, lists, acts)
    late = pl.concat(
        [tables.of_kind(k).select("event_time_ms", "source", "file", "row") for k in EVENT_KINDS]
    ).filter(pl.col("event_time_ms") > now_ms + MAX_CLOCK_SKEW_MS)
    yield "future_times", _what(late, pl.lit("time ") + _iso("event_time_ms"))
    yield "split_outside_data", _split(mapping, tables)


def _duplicate_checks(
    tables: DatasetTables,
) -> Iterator[tuple[CheckName, pl.DataFrame, list[str]]]:
    act = ["user_id", "item_id", "type", "event_time_ms", "value", "request_id"]
    yield "duplicate_items", tables.items, ["item_id", "event_time_ms"]
    yield "duplicate_users", tables.users, ["user_id", "event_time_ms"]
    yield "duplicate_impressions", tables.impressions, ["request_id"]
    yield "duplicate_interactions", tables.interactions, act
    yield "duplicate_feedback", tables.feedback, act


def _repeats(frame: pl.DataFrame, subset: list[str]) -> pl.DataFrame:
    """Give the rows that repeat an earlier one in ``subset``."""
    again = frame.filter(~pl.struct(subset).is_first_distinct())
    shown = [pl.lit(f"{c} ") + pl.col(c).cast(pl.String).fill_null("none") for c in subset]
    return _what(again, pl.lit("again ") + pl.concat_str(shown, separator=", "))


def _unknown_items(
    mapping: DatasetMapping, tables: DatasetTables, acts: pl.DataFrame
) -> pl.DataFrame | str:
    if mapping.items is None:
        return "the mapping has no [items]"
    known = tables.items.select("item_id")
    shown = tables.impressions.select(pl.col("items").alias("item_id"), "source", "file", "row")
    everything = pl.concat(
        [shown.explode("item_id"), acts.select("item_id", "source", "file", "row")]
    )
    unknown = everything.join(known, on="item_id", how="anti", maintain_order="left")
    return _what(unknown, pl.lit("item ") + pl.col("item_id"))


def _pointing(
    mapping: DatasetMapping, lists: pl.DataFrame, acts: pl.DataFrame
) -> Iterator[tuple[CheckName, pl.DataFrame | str]]:
    """Judge rows by the list their request id points to."""
    checks: tuple[CheckName, ...] = (
        "unknown_requests", "interaction_outside_list", "interaction_before_list",
    )  # fmt: skip
    pointing = acts.filter(pl.col("request_id").is_not_null())
    if not mapping.impressions or not pointing.height:
        why = "no [[impressions]]" if not mapping.impressions else "no row has a request id"
        for check in checks:
            yield check, why
        return
    target = lists.select("request_id", "items", shown_ms="event_time_ms")
    target = target.unique("request_id", keep="first", maintain_order=True)
    joined = pointing.join(target, on="request_id", how="left", maintain_order="left")
    request = pl.lit("request ") + pl.col("request_id")
    found = joined.filter(pl.col("items").is_not_null())
    yield checks[0], _what(joined.filter(pl.col("items").is_null()), request)
    outside = found.filter(~pl.col("items").list.contains(pl.col("item_id")))
    yield checks[1], _what(outside, pl.lit("item ") + pl.col("item_id") + pl.lit(", ") + request)
    early = found.filter(pl.col("event_time_ms") < pl.col("shown_ms"))
    yield checks[2], _what(early, pl.lit("time ") + _iso("event_time_ms") + pl.lit(", ") + request)


def _split(mapping: DatasetMapping, tables: DatasetTables) -> pl.DataFrame | str:
    if mapping.split is None:
        return "the mapping has no [split]"
    first, last = tables.first_ms, tables.last_ms
    cuts = {"test_from": mapping.split.test_from_ms}
    if mapping.split.validation_from is not None:
        cuts["validation_from"] = mapping.split.validation_from_ms
    outside = {name: at for name, at in cuts.items() if not first < at <= last}
    frame = pl.DataFrame(
        {"name": list(outside), "at": list(outside.values())},
        schema={"name": pl.String, "at": pl.Int64},
    )
    return frame.select(
        source=pl.lit("split"), file=pl.lit(None, pl.UInt32), row=pl.lit(None, pl.UInt32),
        what=pl.col("name") + pl.lit(" = ") + _iso("at"),
    )  # fmt: skip


def _iso(column: str) -> pl.Expr:
    return pl.from_epoch(column, time_unit="ms").dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")


def _what(frame: pl.DataFrame, what: pl.Expr) -> pl.DataFrame:
    return frame.select("source", "file", "row", what=what)


def _first(mapping: DatasetMapping, data_dir: Path, offence: pl.DataFrame) -> list[str]:
    shown = []
    for source, file, row, what in (
        offence.select("source", "file", "row", "what").head(_NUM_SHOWN).iter_rows()
    ):
        place = f"{_file_name(mapping, data_dir, source, file)} row {row}, " if row else ""
        shown.append(f"{place}{source}: {what}")
    return shown


def _file_name(mapping: DatasetMapping, data_dir: Path, source: str, file: int | str) -> str:
    if isinstance(file, str):
        return file
    kind, _, index = source.partition("[")
    section = getattr(mapping, kind)
    if index:
        section = section[int(index.rstrip("]"))]
    return table_files(mapping, section.table, data_dir)[file].name
