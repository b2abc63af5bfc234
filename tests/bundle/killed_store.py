"""``python -m tests.bundle.killed_store FOLDER A B``: kill pointer changes at every line.

Each change begins with A live, B live before that and no challenger. After every kill the state
must be the old one or the new one; then the same change is made again and must succeed. Prints how
many lines it was killed at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from recsys.bundle import store as module
from recsys.bundle.store import BundleStore
from tests.killed_at_line import killed_at_line


def main(folder: str, a: str, b: str) -> None:
    store = BundleStore(Path(folder))

    def fresh() -> None:
        store.set_challenger(None)
        store.activate(b)
        store.activate(a)

    def state() -> tuple[str | None, str | None]:
        return store.live(), store.aliases().get("challenger")

    changes: dict[str, tuple[Callable[[], object], tuple[str, str | None]]] = {
        "activate": (lambda: store.activate(b, fence=3), (b, None)),
        "rollback": (store.rollback, (b, None)),
        "challenger": (lambda: store.set_challenger(b), (a, b)),
    }
    kills = dict.fromkeys(changes, 0)
    for name, (change, wanted) in changes.items():
        while True:
            fresh()
            before = store.rollback(), store.activate(a)
            assert before[0] == b
            fresh()
            if not killed_at_line(lambda: (change(), None)[1], (module.__file__,), kills[name] + 1):  # noqa: B023
                break
            kills[name] += 1
            assert state() in ((a, None), wanted), (name, kills[name], state())
            if state() == (a, None):
                change()
            assert state() == wanted, (name, kills[name], state())
            if name == "activate":
                assert store.rollback() == a
    print(json.dumps(kills))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
