"""``recsys publish [BUNDLE_ID]``: load a bundle beside the live one, try it, make it live.

1. render its Triton model into the model repository
2. load it over gRPC; requests go on being answered by the live bundle
3. warm it up, then ask it what a request would ask and look at the answer
4. move the pointer: every API process takes the bundle up within half a second
5. unload what nobody serves any more; the bundle that was live before stays for a rollback

``--beside`` stops short of making it live: it answers the requests that ask for it by id (a canary,
a shadow, an arm of an experiment). ``--retire BUNDLE_ID`` ends that.

Killed at any line and run again, it ends in the same place: every step is whole or not at all, and
harmless when repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from recsys.spare_time import continue_in_spare_time

TRY_AGAIN = 3
"""Exit code when a server did not answer: the same command may succeed in a minute."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle_id", nargs="?", help="an id, or `challenger`; default: the newest bundle"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--beside", action="store_true", help="serve it beside the live bundle, by id only"
    )
    what.add_argument(
        "--retire", action="store_true", help="serve it beside the live bundle no longer"
    )
    parser.add_argument(
        "--fence", type=int,
        help="number of the pipeline's run that asks; refused once a later one was here",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.retire and args.bundle_id is None:
        parser.error("--retire wants the id of a bundle that is served beside the live one")
    # Imported here: it is a second of CPU, which is to be spent at the lowest priority too.
    from rich.console import Console

    from recsys.endpoints import resolve
    from recsys.errors import RecsysError, ServerError, StageError
    from recsys.settings import Settings
    from serving.publishing import publish, retire

    console = Console(stderr=True)
    settings = Settings()
    try:
        endpoints = resolve(settings)
        if args.retire:
            published = retire(settings, endpoints, args.bundle_id, console=console)
        else:
            published = publish(
                settings, endpoints, args.bundle_id,
                console=console, fence=args.fence, beside=args.beside,
            )  # fmt: skip
    except RecsysError as error:
        sys.stderr.write(f"recsys publish: {error}\n")
        return TRY_AGAIN if isinstance(error, (ServerError, StageError)) else 2
    sys.stdout.write(
        json.dumps(
            {
                "live": published.live,
                "beside": published.beside,
                "previous": published.previous,
                "unloaded": published.unloaded,
                "took_ms": published.took_ms,
            }
        )
        + "\n"
    )
    return 0


if __name__ == "__main__":
    # Nobody waits for a publication as for an answer; the servers on this machine come first.
    continue_in_spare_time()
    sys.exit(main())
