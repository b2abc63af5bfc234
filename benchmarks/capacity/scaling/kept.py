"""Where the laws are kept: the newest committed result of the study."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.capacity.scaling.laws import Laws, of_json
from benchmarks.suite.record import path_of, read
from recsys.errors import InputError

NAME = "capacity.scaling"
RESULTS = Path(__file__).resolve().parents[2] / "results"


def newest_laws(results: Path = RESULTS) -> tuple[Laws, str]:
    """Give the laws, and in words where they come from. Raises InputError when there are none."""
    found = sorted(path for path in results.glob("*/*.json") if path == path_of(path.parent, NAME))
    if not found:
        raise InputError(
            "wanted a result of the scaling study in benchmarks/results, found none; measure one "
            "with `recsys capacity scaling` and let `fit` write it there"
        )
    record = read(found[-1])
    try:
        laws = of_json(record.result["laws"])
    except (KeyError, msgspec.ValidationError) as error:
        raise InputError(
            f"wanted the laws of this version in {found[-1].name} of {record.date}, found: {error};"
            " run `recsys capacity scaling fit` anew"
        ) from error
    return laws, f"{record.commit}, {record.date}, {record.machine['name']}"
