"""Find and read mappings: by name among the worked ones, or a TOML file of your own."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

from pydantic import ValidationError

from recsys.datasets.mapping import DatasetMapping
from recsys.errors import MappingError

WORKED_DIR = Path(__file__).parent / "mappings"


def worked_names() -> list[str]:
    """Give the names of the mappings that come with the library, sorted."""
    return sorted(path.stem for path in WORKED_DIR.glob("*.toml"))


def load_mapping(name_or_path: str | Path) -> DatasetMapping:
    """Read a mapping: a worked one by name, or a file when the argument ends in ``.toml``.

    Raises:
        MappingError: when there is no such mapping, it is no TOML, or a value is wrong. The
            message gives each TOML path (``interactions[0].type``), what was found and what
            was wanted; ``field`` is the first path.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        names = worked_names()
        if str(name_or_path) not in names:
            near = difflib.get_close_matches(str(name_or_path), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise MappingError(
                f"no mapping named {str(name_or_path)!r}: {hint}known are {', '.join(names)}; "
                "for your own tables give the path of a .toml file (docs/data.md)"
            )
        path = WORKED_DIR / f"{name_or_path}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MappingError(f"mapping {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MappingError(f"mapping {path} is not UTF-8 text") from None
    mapping = parse_mapping(text, where=str(path))
    mapping._file = path.resolve()
    return mapping


def parse_mapping(text: str, *, where: str = "mapping") -> DatasetMapping:
    """Read a mapping from TOML text; ``where`` names it in messages.

    Raises:
        MappingError: see ``load_mapping``.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"{where} is no TOML: {error}") from None
    try:
        return DatasetMapping.model_validate(document)
    except ValidationError as error:
        problems = [_describe(dict(problem)) for problem in error.errors()]
        first_path = problems[0][0]
        lines = "\n".join(f"  {path or '(whole file)'}: {message}" for path, message in problems)
        raise MappingError(f"{where} does not fit:\n{lines}", field=first_path) from None


def _describe(problem: dict[str, object]) -> tuple[str, str]:
    path = ""
    location = problem["loc"]
    assert isinstance(location, tuple)
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _is_toml_key(part):
            path += f".{part}" if path else part
    kind, message = str(problem["type"]), str(problem["msg"])
    if kind == "missing":
        return path, "missing; this field is required"
    if kind == "extra_forbidden":
        return path, "unknown field; see docs/data.md for those that exist"
    if kind == "value_error":
        return path, message.removeprefix("Value error, ")
    return path, f"{message}, found {problem['input']!r}"


def _is_toml_key(part: object) -> bool:
    # pydantic adds the union member it tried (a class name, `constrained-str`, `literal[...]`)
    # to the location; those are no part of the file.
    text = str(part)
    return not (
        text[:1].isupper() or "-" in text or "[" in text or text in ("str", "float", "int", "bool")
    )
