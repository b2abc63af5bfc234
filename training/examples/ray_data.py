"""Parts of example tables made by Ray Data, as many at once as there are CPUs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys.errors import ConfigurationError, InputError, RecsysError
from training.examples.making import MakePart


def make_over_ray(make: MakePart, task_file: Path, parts: Sequence[int]) -> None:
    """Make the parts over the Ray that this process is connected to.

    On a cluster the folder must be one that all nodes share. A node that is lost has its parts made
    again elsewhere: each is written whole or not at all.

    Raises:
        InputError: when the data cannot be learned from.
        ConfigurationError: when Ray fails.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its own story on standard error
    ray.data.DataContext.get_current().enable_progress_bars = False

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            make(task_file, int(row["part"]))
        except RecsysError as error:  # Ray would wrap it in its own and a stack
            return {"part": row["part"], "error": str(error)}
        return {"part": row["part"], "error": ""}

    try:
        made = (
            ray.data.from_items([{"part": p} for p in parts], override_num_blocks=len(parts))
            .map(one)
            .take_all()
        )
    except Exception as error:  # Ray has many kinds; all of them end the run
        raise ConfigurationError(
            f"making examples on Ray failed: {error}\nwhat was finished is kept; the same command "
            "goes on from there"
        ) from error
    for row in made:
        if row["error"]:
            raise InputError(row["error"])
