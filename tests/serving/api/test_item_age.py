"""Answers ranked by old item features are counted one by one, and said once a spell."""

from __future__ import annotations

import logging

import pytest

from recsys.telemetry import ITEM_FEATURES_AGE_SECONDS, ITEM_FEATURES_LATE
from serving.api.item_age import ItemAge


def test_old_features_are_counted_and_said_once_a_spell(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = ITEM_FEATURES_LATE._value.get()
    age = ItemAge(2_000)
    for age_ms in (300, 2_000, 2_001, 9_000, None, 250, 2_500):
        age.seen(age_ms)
    assert ITEM_FEATURES_LATE._value.get() - before == 3
    assert ITEM_FEATURES_AGE_SECONDS._value.get() == 2.5
    said = [record.levelname for record in caplog.records]
    assert said == ["WARNING", "INFO", "WARNING"]
    assert "wanted at most 2000 ms, found 2001" in caplog.text
