"""Turns that are measured, kept one file each: a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import InputError


@dataclass(frozen=True)
class TurnsFile:
    """A folder of turns, all measured in one way."""

    folder: Path
    measured_as: Mapping[str, Any]
    """What has to be the same for turns to be held beside each other."""

    def find(self, round_: int, name: str) -> dict[str, Any] | None:
        """Give a turn; ``None``: it has not been taken.

        Raises:
            InputError: when it was measured in another way.
        """
        path = self._path(round_, name)
        if not path.exists():
            return None
        turn: dict[str, Any] = json.loads(path.read_text())
        found, wanted = turn["measured_as"], json.loads(json.dumps(self.measured_as))
        if found != wanted:
            differing = [key for key in wanted if found.get(key) != wanted[key]]
            raise InputError(
                f"{path}: wanted a turn measured with the same {', '.join(differing)}, found "
                f"{ {key: found.get(key) for key in differing} }; take them anew in another --out"
            )
        return turn

    def keep(self, round_: int, name: str, turn: Mapping[str, Any]) -> None:
        """Write a turn, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(round_, name)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**turn, "measured_as": self.measured_as}))
        temporary.replace(path)

    def all(self, names: Sequence[str], rounds: int) -> dict[str, dict[int, dict[str, Any]]]:
        """Give the turns of services by round."""
        return {
            name: {
                round_: turn
                for round_ in range(rounds)
                if (turn := self.find(round_, name)) is not None
            }
            for name in names
        }

    def _path(self, round_: int, name: str) -> Path:
        return self.folder / f"{round_:02d}-{name}.json"
