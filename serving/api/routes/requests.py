"""``GET /v1/requests/{request_id}``: a past answer computed again, in a process of its own.

The API holds no model, and recommendations must not wait for one that is loaded for an operator. So
the command ``recsys answer`` runs beside it, one at a time, and its result is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from starlette.requests import Request
from starlette.responses import Response

from recsys.errors import OverloadedError, ServerError
from recsys.replay.exit_codes import NOT_FOUND
from serving.api.decoding import check_identifier, flag_parameter, refuse_unknown_parameters
from serving.api.problems import Problem

_TIMEOUT_S = 60.0
"""Loading torch and a bundle takes seconds."""
_MOST_SAID = 500
_one_at_a_time = asyncio.Semaphore(1)


async def past_request(request: Request) -> Response:
    """Answer ``GET /v1/requests/{request_id}``."""
    refuse_unknown_parameters(request, frozenset({"contributions"}))
    request_id = check_identifier(request.path_params["request_id"], "request_id")
    with_contributions = flag_parameter(request, "contributions")
    if _one_at_a_time.locked():
        raise OverloadedError(
            "requests: another answer is being computed again; come back in some seconds",
            stage="requests",
        )
    async with _one_at_a_time:
        code, found, said = await _run(request_id, with_contributions=with_contributions)
    if code == NOT_FOUND:
        raise Problem("not_found", said, field="request_id")
    if code != 0:
        raise ServerError(said)
    return Response(found, media_type="application/json")


async def _run(request_id: str, *, with_contributions: bool) -> tuple[int, bytes, str]:
    command = [sys.executable, "-m", "recsys.replay.cli", "--json"]
    if with_contributions:
        command.append("--contributions")
    # After a double dash: an id may begin with one.
    process = await asyncio.create_subprocess_exec(
        *command, "--", request_id,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            found, errors = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise ServerError(
                f"requests: the answer was not computed again within {_TIMEOUT_S:g} s"
            ) from error
        raise
    assert process.returncode is not None
    lines = errors.decode(errors="replace").strip().splitlines()
    return (
        process.returncode,
        found,
        lines[-1][:_MOST_SAID] if lines else "the process said nothing",
    )
