"""Recent history: both kernels against the plain definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from recsys.features import history_updates, one_history, recency
from recsys.features.history_codec import Interactions
from recsys.features.history_updates import added
from recsys.features.names import identity_hash
from recsys.features.recency import HistoryIndex, RecentEvents
from tests.features import oracle
from tests.features.oracle import Seen, history_at
from tests.features.worlds import as_int64


@pytest.mark.parametrize("seed", range(6))
def test_both_kernels_equal_the_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    events_kept, length = (12, 5) if seed % 2 else (20, 30)
    for module in (recency, oracle, history_updates, one_history):
        monkeypatch.setattr(module, "HISTORY_EVENTS", events_kept)
    for module in (recency, oracle, one_history):
        monkeypatch.setattr(module, "HISTORY_LENGTH", length)
    monkeypatch.setattr(HistoryIndex, "_CHUNK", 50)
    rng = np.random.default_rng(seed)
    n = 120
    owner = rng.integers(0, 3, n)
    item_ids = [f"i{k}" for k in rng.integers(0, 9, n)]
    times = rng.integers(0, 40, n)  # many ties
    hashes = as_int64([identity_hash(i) for i in item_ids])
    ids = sorted(set(item_ids))
    items = as_int64([ids.index(i) for i in item_ids])
    index = HistoryIndex(owner, hashes, times, 4)
    moments = as_int64([-1, 0, 5, 17, 39, 100])
    for t in moments:
        expected = [
            history_at(
                [
                    Seen(int(times[k]), "interaction", "", 1.0, item_ids[k])
                    for k in range(n)
                    if owner[k] == o
                ],
                int(t),
            )
            for o in range(4)
        ]
        offline = index.at(np.append(np.arange(4), -1), np.full(5, t))
        by_now = np.flatnonzero(times <= t)
        blobs, newest = [b""] * 4, np.full(4, -1)
        for part in np.array_split(rng.permutation(by_now), 4):
            more = Interactions(owner[part], items[part], times[part], [i.encode() for i in ids])
            blobs = added(blobs, newest, more)
            np.maximum.at(newest, owner[part], times[part])
        online_events = RecentEvents.of_blobs(blobs)
        online = online_events.until(np.full(4, t)).recent_items()
        hash_of = as_int64([identity_hash(i) for i in online_events.ids])
        online = dataclasses.replace(online, item=hash_of[online.item])
        for answer in (offline, online):
            for o in range(4):
                row = slice(answer.offsets[o], answer.offsets[o + 1])
                assert answer.item[row].tolist() == [identity_hash(i) for i, _, _ in expected[o]]
                assert answer.count[row].tolist() == [c for _, c, _ in expected[o]]
                assert answer.last_ms[row].tolist() == [at for _, _, at in expected[o]]
        for o, blob in enumerate(blobs):
            alone = one_history.history_of(blob, int(t))
            found = zip([i.decode() for i in alone.ids], alone.counts, alone.last_ms, strict=True)
            assert list(found) == expected[o]
        assert offline.offsets[5] == offline.offsets[4], "an unknown user has no history"
        np.testing.assert_array_equal(
            index.last_ms(np.arange(4), np.full(4, t)),
            [e[-1][2] if e else -1 for e in expected],
        )
