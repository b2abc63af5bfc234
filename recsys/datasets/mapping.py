"""A whole data-set mapping: the TOML file that turns your tables into typed events.

A mapping names *tables* (files; ``mapping_tables.py``), says which events their rows are (*items*,
*users*, *impressions*, *interactions*, *feedback*; ``mapping_events.py``), and what the data set is
used for (*objectives*, *split*, *evaluation*, *check*; ``mapping_use.py``). Here they are one, and
must agree. ``docs/data.md`` walks through one; ``mappings/*.toml`` are worked ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from recsys.datasets.mapping_events import Behaviour, Impressions, Items, Users
from recsys.datasets.mapping_tables import Column, Section, Table, TimeDefaults
from recsys.datasets.mapping_use import CheckRules, Evaluation, Objective, Split


class Download(Section):
    """Where the publisher offers the data."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    file: Column
    """Name under which the download is kept in the data set's folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Unset: unknown; the sum is printed and the tables are checked after conversion."""
    size_bytes: int | None = Field(default=None, ge=1)
    convert: Literal["online_retail", "kuairand_pure"] | None = None
    """Which converter of ``publishers.py`` makes the tables out of it; unset: used as it is."""
    page: str = ""
    """Web page of the publisher, for people."""


class DatasetMapping(Section):
    """A whole mapping."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
    title: str = ""
    licence: str = ""
    notes: str = ""
    folder: str = ""
    """Under the data folder (``RECSYS_DATA_DIR``); unset: ``name``. Absolute, or beginning with
    ``.``: relative to the mapping file instead."""
    tables: Annotated[dict[str, Table], Field(min_length=1)]
    time: TimeDefaults = TimeDefaults()
    items: Items | None = None
    users: Users | None = None
    impressions: list[Impressions] = Field(default_factory=list)
    interactions: list[Behaviour] = Field(default_factory=list)
    feedback: list[Behaviour] = Field(default_factory=list)
    objectives: list[Objective] = Field(default_factory=list)
    split: Split | None = None
    evaluation: Evaluation = Evaluation()
    check: CheckRules = CheckRules()
    download: Download | None = None

    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_tables()
        if not (self.impressions or self.interactions or self.feedback):
            raise ValueError("wanted at least one of impressions, interactions, feedback")
        self._check_types()
        return self

    def _check_tables(self) -> None:
        profiles = {"items": self.items, "users": self.users}
        used = [(where, section.table) for where, section in profiles.items() if section]
        for kind in ("impressions", "interactions", "feedback"):
            used += [(f"{kind}[{index}]", s.table) for index, s in enumerate(getattr(self, kind))]
        for where, table in used:
            if table not in self.tables:
                raise ValueError(
                    f"{where}.table = {table!r} is not among [tables] ({', '.join(self.tables)})"
                )

    def _check_types(self) -> None:
        types = set[str]().union(*(b.types() for b in (*self.interactions, *self.feedback)))
        wanted = [(f"objectives[{i}]", o.interaction) for i, o in enumerate(self.objectives)]
        if self.evaluation.interaction is not None:
            wanted.append(("evaluation", self.evaluation.interaction))
        for where, name in wanted:
            if name not in types:
                raise ValueError(
                    f"{where}.interaction = {name!r} is no type of this mapping "
                    f"(found {', '.join(sorted(types)) or 'none'})"
                )
        names = [objective.name for objective in self.objectives]
        if len(set(names)) != len(names):
            raise ValueError(f"objectives must have different names, found {names}")

    @property
    def relevant_type(self) -> str | None:
        """Interaction type that makes an item relevant in evaluation."""
        if self.evaluation.interaction is not None:
            return self.evaluation.interaction
        return self.objectives[0].interaction if self.objectives else None

    def data_folder(self, data_dir: Path) -> Path:
        """Give the folder this data set's files are in."""
        folder = Path(self.folder or self.name)
        if folder.is_absolute():
            return folder
        if self.folder.startswith(".") and self._file is not None:
            return self._file.parent / folder
        return data_dir / folder
