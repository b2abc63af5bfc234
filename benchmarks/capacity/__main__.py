"""``recsys capacity``: what a load takes, and how cost grows.

  recsys capacity plan --users 100e6 --rate 50000 --items 10e6      how many of what, at what cost
  recsys capacity scaling kernels --state DIR      measure how cost grows, one axis at a time
  recsys capacity simulate --api 8 --rate 2000     what a cluster would do, node by node

Each word is a command of its own: ``recsys capacity scaling --help``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "plan": "benchmarks.capacity.plan_command",
    "scaling": "benchmarks.capacity.scaling.__main__",
    "simulate": "benchmarks.capacity.simulation.__main__",
}
"""The module of each first word; its ``main`` takes the words after it and gives the exit code."""
_WRONG_CALL = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(__doc__ or "")
        return 0 if given else _WRONG_CALL
    if given[0] not in COMMANDS:
        sys.stderr.write(
            f"recsys capacity: wanted one of {', '.join(COMMANDS)}, found {given[0]!r}\n"
        )
        return _WRONG_CALL
    return int(importlib.import_module(COMMANDS[given[0]]).main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
