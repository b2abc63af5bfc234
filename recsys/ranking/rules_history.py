"""The operator's rules as they were: each version that was in force, under its own name.

An exposure names the version of the rules by the hash of the file's bytes; the answer can be made
again only where those bytes are still there. They are small, so they are kept for good.
"""

from __future__ import annotations

import logging
from pathlib import Path

from recsys.errors import ConfigurationError
from recsys.events.durable_files import create_durably, make_directory
from recsys.ranking.operator_rules import NO_RULES, OperatorRules, read_operator_rules

logger = logging.getLogger(__name__)


def keep_version(folder: Path, version: str, data: bytes) -> None:
    """Keep the bytes of a version; several processes may do so at once. Never raises."""
    path = folder / f"{version}.toml"
    try:
        if not path.exists():
            make_directory(folder)
            create_durably(path, data)
    except FileExistsError:
        return
    except OSError as error:
        logger.warning("answers under rules %s cannot be made again: %s", version, error)


def read_rules_version(folder: Path, version: str) -> OperatorRules:
    """Give the rules of a version; ``""`` is that of no rules.

    Raises:
        ConfigurationError: when they were not kept, or are not what they were.
    """
    if not version:
        return NO_RULES
    path = folder / f"{version}.toml"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: wanted the operator's rules of version {version}, found: {error.strerror}; "
            "they are kept from the moment an API process takes them up"
        ) from error
    rules = read_operator_rules(data, source=str(path))
    if rules.version != version:
        raise ConfigurationError(
            f"{path}: wanted rules of version {version}, found {rules.version}: the file "
            "was changed"
        )
    return rules
