"""One system that has answered, for all tests here."""

from __future__ import annotations

import pytest

from recsys.settings import Settings
from tests.replay.past_answers import Past, make_past


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return make_past(Settings(RECSYS_STATE_DIR=tmp_path_factory.mktemp("past")))
