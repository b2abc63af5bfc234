"""The whole system, driven as a user drives it: by `recsys` commands and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.client import Client
from recsys.endpoints import Endpoints, resolve
from recsys.settings import Settings
from tests import servers


@dataclass(frozen=True)
class System:
    """Commands and requests to one running system."""

    settings: Settings

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which every command of this system runs."""
        values = self.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
        return os.environ | {name: str(value) for name, value in values.items()}

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers answer."""
        return resolve(self.settings)

    @property
    def api_url(self) -> str:
        """Address of its API."""
        return f"http://{self.settings.host}:{self.settings.api_port}"

    def client(self) -> Client:
        """Give a client of its API."""
        return Client(self.api_url)

    def run(self, *command: str, code: int = 0) -> str:
        """Run ``recsys <command>``; give its standard output. Fails on another exit code."""
        finished = subprocess.run(
            [sys.executable, "-m", "recsys.cli", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert finished.returncode == code, (
            f"recsys {' '.join(command)}: exit code {finished.returncode}, wanted {code}\n"
            f"{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}"
        )
        return finished.stdout

    def status(self) -> dict[str, Any]:
        """Give what `recsys status` knows, by server."""
        return json.loads(self.run("status", "--json"))


def start_system(folder: Path, **changes: object) -> System:
    """Give a system with ports, a folder and a namespace of its own; nothing runs yet."""
    return System(
        servers.session_settings(
            folder.name,
            RECSYS_STATE_DIR=folder / "var",
            RECSYS_NAMESPACE=f"e{uuid.uuid4().hex[:8]}",
            RECSYS_PARTITIONS=2,
            **changes,
        )
    )
