"""A vocabulary as a file of a bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec

from recsys.data.vocabulary import Vocabulary
from recsys.errors import BundleError


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    item_ids: list[str]
    categories: list[str]


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Write ``vocabulary`` as JSON."""
    document = _Document(list(vocabulary.item_ids), list(vocabulary.categories))
    path.write_bytes(msgspec.json.encode(document))


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary. Raises BundleError when the file is absent or is not one."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"{path} is not a readable vocabulary ({error}); train again") from error
    return Vocabulary(tuple(document.item_ids), tuple(document.categories))
