"""``recsys features COMMAND``: declarations applied, features shown, checked, drawn and audited.

Commands that read or check features import no Feast: they load the compiled plan.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

_FEAST = "recsys.features.feast_repository"
_VERSIONS = "recsys.features.versions_cli"
_QUALITY = "recsys.features.quality"
COMMANDS: dict[str, tuple[str, str]] = {
    "apply": (_FEAST, "register with Feast and compile the plan"),
    "compile": (_FEAST, "compile the plan"),
    "env": (_FEAST, "print the exports Feast needs"),
    "feast": (_FEAST, "run a Feast command with them"),
    "show": ("recsys.features.show", "print the features of one user or item, and why"),
    "audit": ("recsys.features.audit.cli", "compare what was served with what training sees"),
    "versions": (_VERSIONS, "print the versions of all views, and which bundles read them"),
    "retire": (_VERSIONS, "remove a version of a view from the store"),
    "check": (f"{_QUALITY}.check_cli", "judge the declared expectations at a moment"),
    "profile": (f"{_QUALITY}.profile_cli", "draw every feature on one HTML page"),
    "probe": (f"{_QUALITY}.probe_cli", "measure with tracer events how soon they are servable"),
    "freshness": (f"{_QUALITY}.freshness_cli", "print how soon events are servable, by view"),
}
"""Name to module and help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded, 2 when there is none of that name."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        lines = [f"  {name:<10}{about}" for name, (_, about) in COMMANDS.items()]
        head = "usage: recsys features COMMAND …   (recsys features COMMAND --help says more)\n\n"
        sys.stdout.write(head + "\n".join(lines) + "\n")
        return 0 if given else 2
    name, *rest = given
    if name not in COMMANDS:
        sys.stderr.write(f"recsys features: no command {name!r} (found: {', '.join(COMMANDS)})\n")
        return 2
    module = COMMANDS[name][0]
    # These serve several commands and want the name.
    arguments = given if module in (_FEAST, _VERSIONS) else rest
    return int(importlib.import_module(module).main(arguments))


if __name__ == "__main__":
    sys.exit(main())
