"""The last steps: what passed the gate is stored, and goes live."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from recsys.bundle.store import BundleStore
from recsys.errors import BundleError, RecsysError
from training.export import code_version
from training.pipeline.definition import Definition
from training.pipeline.engine import Work
from training.pipeline.files import write_json
from training.pipeline.gate import GateRefusedError, from_json, refusal
from training.pipeline.judging_steps import BUNDLE, GATE_FILE, REPORT
from training.pipeline.retry import TransientError
from training.report.write import HTML_FILE, copy_report, has_report

REGISTERED_FILE, PUBLISHED_FILE = "registered.json", "published.json"
PUBLISH_TRY_AGAIN = 3
"""Exit code of ``recsys publish`` when a server did not answer."""


class ReleaseSteps:
    """``register`` and ``publish``."""

    def __init__(self, definition: Definition, store: BundleStore, *, fence: int) -> None:
        """``fence`` is the run's number: an older run makes nothing live any more."""
        self._definition = definition
        self._store = store
        self._fence = fence

    def register(self, work: Work) -> None:
        """Put what passed the gate into the bundle store, as challenger.

        Raises:
            GateRefusedError: when it did not pass.
        """
        gate = json.loads((work.given["gate"] / GATE_FILE).read_bytes())
        if not gate["passed"]:
            raise GateRefusedError(
                f"bundle {gate['bundle_id']} does not pass the gate: "
                f"{refusal(from_json(gate['checks']))}; the live bundle stays. The candidate is in "
                f"{work.given['evaluate'] / BUNDLE}, its report in "
                f"{work.given['gate'] / REPORT / HTML_FILE}"
            )
        bundle_id = self._store.add(work.given["evaluate"] / BUNDLE)
        copy_report(work.given["gate"] / REPORT, self._store.bundle_dir, bundle_id)
        if bundle_id != self._store.live():
            self._store.set_challenger(bundle_id)
        write_json(work.out / REGISTERED_FILE, {"bundle_id": bundle_id})

    def is_stored(self, output: Path) -> bool:
        """Say whether what was registered is still there."""
        try:
            bundle_id = json.loads((output / REGISTERED_FILE).read_bytes())["bundle_id"]
            self._store.path(bundle_id)
        except BundleError:
            return False
        return has_report(self._store.bundle_dir, bundle_id)

    def publish(self, work: Work) -> None:
        """Make it live, by its pointer or by ``recsys publish``."""
        registered = json.loads((work.given["register"] / REGISTERED_FILE).read_bytes())
        bundle_id = registered["bundle_id"]
        if self._definition.publish == "point":
            self._store.activate(bundle_id, fence=self._fence)
        else:
            _serve(bundle_id, self._fence)
        write_json(work.out / PUBLISHED_FILE, {"bundle_id": bundle_id, "code": code_version()})


def _serve(bundle_id: str, fence: int) -> None:
    """Run ``recsys publish``: serving is another program, met in the bundle store."""
    done = subprocess.run(
        [sys.executable, "-m", "recsys.cli", "publish", bundle_id, "--fence", str(fence)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if done.returncode == PUBLISH_TRY_AGAIN:
        raise TransientError(said[0])
    raise RecsysError(f"publishing {bundle_id} failed (exit code {done.returncode}): {said[0]}")
