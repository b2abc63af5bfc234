"""``python -m recsys.grpc_api``: give new fields their numbers and write ``recsys.proto`` anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recsys.grpc_api import numbers, proto_text
from recsys.grpc_api.methods import METHODS
from recsys.grpc_api.shapes import shapes

PROTO_FILE = Path(__file__).parent / "recsys.proto"


def main() -> int:
    """Write both files; gives the exit code."""
    messages = shapes(kind for method in METHODS for kind in (method.request, method.answer))
    grown = numbers.extended(numbers.load(), messages)
    numbers.FILE.write_text(json.dumps(grown, indent=1) + "\n")
    PROTO_FILE.write_text(proto_text.render(messages, grown, METHODS))
    sys.stdout.write(f"{PROTO_FILE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
