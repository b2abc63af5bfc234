"""What the API processes serve, as they announce it: awaited, and respected when unloading."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Collection

from recsys.bundle.announced import Announcement, Announcements
from recsys.bundle.triton_repository import remove, rendered_for
from recsys.deadline import Deadline
from recsys.errors import ServerError
from recsys.inference.triton import MODEL_PREFIX, TritonServer, model_name
from recsys.settings import Settings

_LOOK_EVERY_S = 0.05
_RENDERED_BY_THEN_S = 600.0


async def await_taken_up(
    announcements: Announcements,
    live: str | None,
    beside: Collection[str],
    *,
    timeout_s: float,
) -> str:
    """Return when every API process serves just this; gives why not, ``""`` when all do.

    The pointers have moved, so this is a courtesy to whoever asks for recommendations next.
    """
    deadline = Deadline.after_ms(timeout_s * 1e3)
    while True:
        try:
            present = await announcements.present()
        except ServerError as error:
            return f"whether the API processes have followed is not known: {error}"
        behind = sorted(
            process
            for process, what in present.items()
            if what.live != live or set(what.beside) != set(beside)
        )
        if not behind:
            return "" if present else "no API process is at work"
        if deadline.remaining_s() <= 0:
            return (
                f"{len(behind)} of {len(present)} API processes have not followed within "
                f"{timeout_s:g} s: {', '.join(behind)}; see `recsys logs api`"
            )
        await asyncio.sleep(_LOOK_EVERY_S)


async def unload_unused(
    server: TritonServer, announcements: Announcements, settings: Settings, *, keep: set[str]
) -> list[str]:
    """Unload and remove our models of bundles in nobody's use, and give their names.

    What an API process still holds stays until the next time, and so does everything while it is
    not known who holds what. Foreign models are left alone, and so are those of another state
    folder, whose Triton this is, too.

    Raises:
        ServerError: when Triton does not answer.
    """
    try:
        present = await announcements.present()
    except ServerError:
        return []
    in_use = {bundle for what in present.values() for bundle in _used(what)}
    kept = {model_name(bundle_id) for bundle_id in keep | in_use}
    repository, us = settings.model_repository, str(settings.state_dir.absolute())
    names = {path.name for path in repository.glob(f"{MODEL_PREFIX}*")}
    ours = {name for name in names if rendered_for(repository, name) == us}
    loaded = set(await server.loaded_models())
    for remains in repository.glob(f".{MODEL_PREFIX}*"):  # of a render that was killed
        with contextlib.suppress(FileNotFoundError):
            if time.time() - remains.stat().st_mtime > _RENDERED_BY_THEN_S:
                shutil.rmtree(remains, ignore_errors=True)
    others = sorted(ours - kept)
    for name in others:
        if name in loaded:
            await server.unload(name)
        remove(repository, name)
    return others


def _used(what: Announcement) -> set[str]:
    return {*what.beside, *what.held, *([] if what.live is None else [what.live])}
