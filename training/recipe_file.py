"""Recipes as files: a base by name and the fields that differ, in TOML or JSON.

::

    base = "demo"            # fields that are not given are this recipe's
    name = "longer"
    [towers]
    epochs = 8

Unknown fields are refused by name, with the nearest one there is.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from recsys.errors import ConfigurationError
from recsys.events.durable_files import write_durably
from training.recipes import RECIPES, Recipe, find_recipe

T = TypeVar("T")
_POSITIVE = (
    "learning_rate", "batch_visits", "batch_lists", "list_length", "embedding_size", "hidden_size",
    "history_length", "num_candidates", "temperature", "positives_per_visit", "max_visits",
    "max_lists", "accumulate_batches", "pause_ms", "num_neighbours", "window_ms", "every_ms",
)  # fmt: skip
"""Fields that mean nothing at 0."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a ``.toml`` or ``.json`` file.

    Raises:
        ConfigurationError: when the file cannot be read, or a field is unknown or of another type.
    """
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: wanted a recipe, found: {error.strerror or error}; give a .toml or .json file"
        ) from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: wanted TOML or JSON, found: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: wanted a table of fields, found {type(values).__name__}")
    base = values.pop("base", "demo")
    if base not in RECIPES:
        raise ConfigurationError(
            f'{path}: no recipe "{base}" to start from{_nearest(base, RECIPES)}'
        )
    recipe = changed(find_recipe(base), values, where=str(path))
    check_recipe(recipe)
    return recipe


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write every field of a recipe as JSON, durably; ``read_recipe`` gives the same recipe."""
    write_durably(path, json.dumps(dataclasses.asdict(recipe), indent=1).encode() + b"\n")


def changed(base: T, values: Mapping[str, Any], *, where: str, path: str = "") -> T:
    """Give ``base`` (a dataclass) with some fields replaced; tables go into its inner dataclasses.

    Raises:
        ConfigurationError: for a field that ``base`` does not have, or a value of another type.
    """
    assert is_dataclass(base) and not isinstance(base, type)
    kinds = typing.get_type_hints(type(base))
    known = [f.name for f in fields(base)]
    new: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{path}{name}"
        if name not in known:
            raise ConfigurationError(
                f'{where}: a recipe has no field "{full}"{_nearest(name, known, path)}'
            )
        current = getattr(base, name)
        inner = _optional_table(kinds[name])
        if inner is not None and current is None and isinstance(value, Mapping):
            current = inner()
        if is_dataclass(current) and not (inner is not None and value is None):
            if not isinstance(value, Mapping):
                raise ConfigurationError(
                    f'{where}: "{full}" is a table of fields, found {value!r}; write [{full}]'
                )
            new[name] = changed(current, value, where=where, path=f"{full}.")
            continue
        try:
            new[name] = TypeAdapter(kinds[name]).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigurationError(
                f'{where}: "{full}": {first["msg"]}, found {value!r} (now {current!r})'
            ) from error
    return dataclasses.replace(base, **new)


def _optional_table(kind: Any) -> Callable[[], Any] | None:
    """Give the dataclass of a field that may also be None, None for any other field."""
    options = typing.get_args(kind)
    if type(None) not in options:
        return None
    return next((o for o in options if isinstance(o, type) and is_dataclass(o)), None)


def check_recipe(recipe: Recipe) -> None:
    """Refuse numbers no run can use.

    Raises:
        ConfigurationError: for one that is not finite, negative, or 0 where that means nothing.
    """
    _check_numbers(recipe, "")


def _check_numbers(part: Any, path: str) -> None:
    for each in fields(part):
        value, full = getattr(part, each.name), f"{path}{each.name}"
        if is_dataclass(value):
            _check_numbers(value, f"{full}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            too_small = value < 0 or (value == 0 and each.name in _POSITIVE)
            if not math.isfinite(value) or too_small:
                wanted = "above 0" if each.name in _POSITIVE else "0 or more"
                raise ConfigurationError(
                    f'recipe field "{full}": wanted a number {wanted}, found {value}'
                )


def _nearest(name: str, known: typing.Iterable[str], path: str = "") -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f'; did you mean "{path}{close[0]}"?'
    return f" (found {', '.join(names)})"
