"""Servers that several modules of the feature tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from serving.embedded.launch import Launch
from tests import servers
from tests.features.redis.redis_servers import Starter, start_cluster


@pytest.fixture(scope="module")
def cluster_launches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Launch]]:
    """Give three nodes of a Redis Cluster, of one module's tests: empty it before each."""
    with contextlib.ExitStack() as stack:
        start: Starter = lambda launch: stack.enter_context(servers.own_server(launch))  # noqa: E731
        yield start_cluster(start, tmp_path_factory.mktemp("cluster"))
