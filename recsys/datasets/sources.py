"""The tables of a mapping, each read once, and the rows that had to be refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.datasets import conditions
from recsys.datasets.limits import Rule
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.mapping_events import (
    Behaviour,
    CategoryRule,
    Impressions,
    Items,
    TypeColumn,
    Users,
)
from recsys.datasets.mapping_tables import TimeColumn
from recsys.datasets.readers import keep, read_table, table_files
from recsys.errors import MappingError

Section = Items | Users | Impressions | Behaviour

BAD_ROWS = {
    "kind": pl.String, "source": pl.String, "file": pl.String, "row": pl.UInt32,
    "reason": pl.String, "value": pl.String, "is_null": pl.Boolean,
}  # fmt: skip
_SHOWN_CHARACTERS = 80


class Sources:
    """Gives each section its rows and collects what is wrong with them."""

    def __init__(self, mapping: DatasetMapping, data_dir: Path) -> None:
        self.mapping = mapping
        self.data_dir = data_dir
        self._bad: list[pl.DataFrame] = []
        self._frames: dict[str, pl.DataFrame] = {}
        self._sections: dict[str, list[Section]] = {}
        sections: list[Section] = [*mapping.impressions, *mapping.interactions, *mapping.feedback]
        sections += [mapping.items] if mapping.items else []
        sections += [mapping.users] if mapping.users else []
        for section in sections:
            self._sections.setdefault(section.table, []).append(section)

    def rows(self, section: Section, where: str) -> pl.DataFrame:
        """Give the rows of a section's table that its conditions keep.

        ``where`` is the section's TOML path, for messages.
        """
        frame = self._table(section.table)
        try:
            return keep(frame, [conditions.parse(text) for text in section.where])
        except MappingError as error:
            raise MappingError(f"{where}.where: {error}", field=f"{where}.where") from None

    def refuse(
        self, frame: pl.DataFrame, rules: list[Rule], *, kind: str, source: str, table: str
    ) -> pl.DataFrame:
        """Give the rows that break no rule; remember the others with the first rule they break."""
        reason, value = pl.lit(None, pl.String), pl.lit(None, pl.String)
        is_null = pl.lit(False)
        for rule in reversed(rules):
            broken = rule.broken.fill_null(False)
            reason = pl.when(broken).then(pl.lit(rule.reason)).otherwise(reason)
            is_null = pl.when(broken).then(pl.lit(rule.is_null)).otherwise(is_null)
            dtype = frame.schema[rule.shown]
            shown = pl.col(rule.shown)
            if isinstance(dtype, pl.List):
                shown = shown.list.len().cast(pl.String) + " entries"
            shown = shown.cast(pl.String).str.slice(0, _SHOWN_CHARACTERS)
            value = pl.when(broken).then(shown).otherwise(value)
        judged = frame.with_columns(
            reason.alias("__reason"), value.alias("__value"), is_null.alias("__is_null")
        )
        bad = judged.filter(pl.col("__reason").is_not_null())
        if bad.height:
            names = pl.Series(
                [path.name for path in table_files(self.mapping, table, self.data_dir)]
            )
            self._bad.append(
                bad.select(
                    kind=pl.lit(kind),
                    source=pl.lit(source),
                    file=pl.lit(names).implode().list.get(pl.col("file")),
                    row=pl.col("row").cast(pl.UInt32),
                    reason="__reason",
                    value="__value",
                    is_null="__is_null",
                )
            )
        return judged.filter(pl.col("__reason").is_null()).drop("__reason", "__value", "__is_null")

    def first_bad(self) -> str:
        """Describe the first refused row; ``""`` when there is none."""
        bad = self.bad_rows()
        if not bad.height:
            return ""
        first = bad.row(0, named=True)
        return (
            f"{bad.height} rows were refused, the first: {first['file']} row {first['row']}, "
            f"{first['source']}: {first['reason']} (found {first['value']!r})"
        )

    def bad_rows(self) -> pl.DataFrame:
        """Give all refused rows."""
        return pl.concat([pl.DataFrame(schema=BAD_ROWS), *self._bad])

    def _table(self, name: str) -> pl.DataFrame:
        if name not in self._frames:
            columns: set[str] = set()
            texts: set[str] = set()
            for section in self._sections[name]:
                columns |= used_columns(section)
                columns |= {conditions.parse(text).column for text in section.where}
                texts |= text_columns(section)
            self._frames[name] = read_table(
                self.mapping, name, self.data_dir, columns=columns, text_columns=texts
            )
        return self._frames[name]


def text_columns(section: Section) -> set[str]:
    """Give the columns that are text whatever they look like: ids, titles, types."""
    if isinstance(section, Items):
        return {section.id, *section.text} | ({section.title} if section.title else set())
    if isinstance(section, Users):
        return {section.id}
    texts = {section.user} | ({section.item} if section.item else set())
    texts |= {c for c in (section.request_id, section.event_id) if isinstance(c, str)}
    if isinstance(section, Behaviour) and isinstance(section.type, TypeColumn):
        texts.add(section.type.column)
    return texts


def used_columns(section: Section) -> set[str]:
    """Give every column a section reads, those of its conditions left out."""
    columns = text_columns(section)
    if isinstance(section, Items):
        columns |= {c for c in (section.price, section.available) if c is not None}
        if isinstance(section.category, CategoryRule):
            columns.add(section.category.column)
        if isinstance(section.born, TimeColumn):
            columns.add(section.born.column)
    if isinstance(section, Items | Users):
        columns |= set(section.attributes.values())
    else:
        columns |= set(section.context.values())
        if isinstance(section.position, str):
            columns.add(section.position)
    if isinstance(section, Impressions):
        columns |= {c for c in (section.items, section.propensity) if c is not None}
    if isinstance(section, Behaviour) and isinstance(section.value, str):
        columns.add(section.value)
    if isinstance(section.time, TimeColumn):
        columns.add(section.time.column)
    return columns
