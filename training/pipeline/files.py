"""Files of a step's output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def write_json(path: Path, document: object) -> None:
    """Write a document, the same bytes for the same content."""
    path.write_text(json.dumps(document, indent=1, sort_keys=True))


def load_output(path: Path) -> Any:
    """Read what ``torch.save`` wrote: any class, since the checksum was compared before."""
    return torch.load(path, weights_only=False)
