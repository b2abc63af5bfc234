"""Small JSON files that name bundles: each changes as a whole, and outlives a power cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recsys.errors import BundleError
from recsys.events.durable_files import write_durably


def read_pointer(path: Path, field: str = "bundle_id") -> dict[str, Any] | None:
    """Give a pointer's document; None when there is none.

    Raises:
        BundleError: when it is not JSON or has no ``field``.
    """
    try:
        document = json.loads(path.read_bytes())
        document[field]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} is damaged ({error}); run `recsys bundle activate BUNDLE_ID`, or remove it"
        ) from error
    assert isinstance(document, dict)
    return document


def replace_pointer(path: Path, document: object) -> None:
    """Put a document in the place of a pointer; a process killed here leaves the one or the other.

    Raises:
        OSError: when it cannot be written; the pointer is as it was.
    """
    write_durably(path, json.dumps(document).encode())
