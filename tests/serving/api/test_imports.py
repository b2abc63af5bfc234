"""The API starts at once and stays small: it imports no Feast, torch or pandas."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "feast", "pandas", "ray", "pyarrow")


def test_api_process_imports_nothing_heavy() -> None:
    program = (
        "import sys, serving.api.__main__, recsys.events.kafka, recsys.data.catalogue\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_package_is_imported_without_an_http_client() -> None:
    program = "import sys, recsys; print('httpx' in sys.modules, recsys.Client.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "Client"]
