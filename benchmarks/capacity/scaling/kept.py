"""Where the laws are kept: the newest committed result of the study."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.capacity.scaling.laws import Laws
from benchmarks.numbers.source import RESULTS, newest_result
from recsys.errors import InputError

NAME = "capacity.scaling"


def newest_laws(results: Path = RESULTS) -> tuple[Laws, str]:
    """Give the laws, and in words where they come from. Raises InputError when there are none."""
    record = newest_result(NAME, results)
    try:
        laws = msgspec.convert(record["result"]["laws"], Laws)
    except (KeyError, msgspec.ValidationError) as error:
        raise InputError(
            f"wanted the laws of this version in the result of {NAME} of {record['date']}, found: "
            f"{error}; run `recsys capacity scaling fit` anew"
        ) from error
    return laws, f"{record['commit']}, {record['date']}, {record['machine']['name']}"
