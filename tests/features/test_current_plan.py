"""The plan of the declarations as they are now."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from recsys.errors import ConfigurationError
from recsys.features import current_plan
from recsys.features.plan import PLAN_FILE
from tests.features.worlds import small_plan


def test_ensure_gives_what_is_compiled_already(tmp_path: Path) -> None:
    """Compiling is covered with Feast itself; here it must not happen."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "definitions.py").write_text("raise SystemExit('imported')")
    plan = msgspec.structs.replace(
        small_plan("shop"), definitions_hash=current_plan.definitions_hash(repository)
    )
    plan.dump(tmp_path / PLAN_FILE)
    assert current_plan.ensure(tmp_path, project="shop", repository=repository) == plan


def test_declarations_that_are_absent_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="wanted Feast declarations"):
        current_plan.definitions_hash(tmp_path)
