"""What a search may change in a recipe: one domain for each field, by its dotted name.

A file of one's own (``--space``) says the same in TOML::

    ["towers.learning_rate"]
    log_uniform = [1e-3, 1e-2]
    ["towers.batch_visits"]
    choice = [128, 256, 512]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.errors import ConfigurationError
from training.recipe_file import changed, check_recipe
from training.recipes import Recipe

Kind = Literal["uniform", "log_uniform", "choice"]
_KINDS: tuple[Kind, ...] = ("uniform", "log_uniform", "choice")


@dataclass(frozen=True)
class Domain:
    """Values one field may have."""

    kind: Kind
    values: tuple[Any, ...]
    """Least and greatest, or the choices."""


SPACE: dict[str, Domain] = {
    "towers.learning_rate": Domain("log_uniform", (1e-3, 1e-2)),
    "towers.batch_visits": Domain("choice", (128, 256, 512)),
    "towers.repeat_weight": Domain("uniform", (0.1, 1.0)),
    "towers.uniform_negatives": Domain("choice", (512, 1024, 2048)),
    "model.embedding_size": Domain("choice", (32, 64, 128)),
    "model.dropout": Domain("uniform", (0.0, 0.3)),
    "model.id_dropout": Domain("uniform", (0.0, 0.3)),
    "model.temperature": Domain("log_uniform", (0.04, 0.2)),
    "ranker.learning_rate": Domain("log_uniform", (1e-3, 1e-2)),
    "ranker.epochs": Domain("choice", (3, 5, 8)),
    "ranker_model.hidden_size": Domain("choice", (32, 64, 128)),
    "neighbours.penalty": Domain("log_uniform", (30.0, 1000.0)),
    "neighbours.half_life_days": Domain("log_uniform", (20.0, 200.0)),
}
"""The fields that matter for a shop, with the ranges in which they do. None of them changes the
example tables, which every trial then shares."""


def read_space(path: Path, base: Recipe) -> dict[str, Domain]:
    """Read a space from a TOML file.

    Raises:
        ConfigurationError: when it cannot be read, names a field that recipes lack, or gives values
            the field cannot have.
    """
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path}: wanted a search space in TOML, found: {error}"
        ) from error
    space: dict[str, Domain] = {}
    for name, said in found.items():
        if not isinstance(said, dict) or len(said) != 1 or next(iter(said)) not in _KINDS:
            raise ConfigurationError(
                f'{path}: "{name}": wanted one of {", ".join(_KINDS)}, found {said!r}'
            )
        kind, values = next(iter(said.items()))
        if not isinstance(values, list) or not values or (kind != "choice" and len(values) != 2):
            raise ConfigurationError(
                f'{path}: "{name}": wanted {kind} = [least, greatest] or a list of choices, found '
                f"{values!r}"
            )
        space[name] = Domain(kind, tuple(values))
    check_space(space, base, where=str(path))
    return space


def check_space(space: Mapping[str, Domain], base: Recipe, *, where: str) -> None:
    """Refuse a space whose values ``base`` cannot have.

    Raises:
        ConfigurationError: naming the field.
    """
    if not space:
        raise ConfigurationError(f"{where}: wanted at least one field to search, found none")
    for name, domain in space.items():
        for value in domain.values:
            check_recipe(with_values(base, {name: value}, where=where))
        if domain.kind != "choice" and not domain.values[0] < domain.values[1]:
            raise ConfigurationError(
                f'{where}: "{name}": wanted least < greatest, found {list(domain.values)}'
            )


def with_values(base: Recipe, values: Mapping[str, Any], *, where: str) -> Recipe:
    """Give ``base`` with fields replaced by their dotted names.

    Raises:
        ConfigurationError: for a field that recipes lack.
    """
    recipe = base
    for name, value in values.items():
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        recipe = changed(recipe, nested, where=where)
    return recipe


def values_of(recipe: Recipe, names: Mapping[str, Domain]) -> dict[str, Any]:
    """Give what a recipe has for the fields of a space."""
    whole = asdict(recipe)
    found: dict[str, Any] = {}
    for name in names:
        value: Any = whole
        for part in name.split("."):
            value = value[part]
        found[name] = value
    return found
