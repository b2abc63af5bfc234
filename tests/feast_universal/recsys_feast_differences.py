"""Cases that must fail with our stores, each with its reason; a pytest plug-in of the run.

They are run all the same: one that passes after all fails the run.
"""

from __future__ import annotations

import os

import pytest

DIFFERENCES = {
    ("test_write_to_online_store_event_check", "DefaultOnlineStoreCreator"): (
        "it wants a row an hour old of a view with a TTL of five minutes; the store gives no rows "
        "older than their TTL unless keep_expired_values is set"
    ),
}
"""By test and store (a part of the case's id): why it cannot pass."""


def pytest_collection_finish() -> None:
    """Cases of Redis return at once where this is set; until now it kept out stores of clouds."""
    os.environ.pop("FEAST_IS_LOCAL_TEST", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "dynamodb_local_environment" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="DynamoDB's own case; needs Docker"))
        for (name, store), reason in DIFFERENCES.items():
            if getattr(item, "originalname", item.name) == name and store in item.name:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
