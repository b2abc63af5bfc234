"""What each part of the system takes for its share of a request, on one kind of machine.

Work is core seconds with warm caches and the machine's other cores idle; what comes of sharing
cores, of pauses and of queues is for the simulation to say. A profile is a committed JSON file that
names its machine, commit and date; ``calibrate.py`` makes it of measured service figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from recsys.errors import InputError

SCHEMA = "recsys-cluster-profile/1"
OTHERS = "others on the machine"
"""Name of the load that is no part of the system."""
PROFILES = Path(__file__).parent / "profiles"


class PerCall(msgspec.Struct, frozen=True, kw_only=True):
    """Work of a call that carries ``n`` users: ``call_s + n user_s``."""

    call_s: float
    user_s: float

    def __call__(self, users: int) -> float:
        """Give the work of a call of so many users."""
        return self.call_s + users * self.user_s


class Warmth(msgspec.Struct, frozen=True, kw_only=True):
    """What a pause costs: see ``cores.Thread``."""

    cold: float = 0.0
    cooling_s: float = 0.01


class ApiCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the event loop of an API process, in the order of a request's way."""

    head_s: float
    """Reading the head of a request, and refusing it where the process is full."""
    receive_s: float
    read: PerCall
    """Asking Redis."""
    decode: PerCall
    """From Redis' bytes to the model's tensors."""
    call: PerCall
    """Asking the model server."""
    reply: PerCall
    """Taking its answer apart."""
    finish_s: float
    """Re-ranking, the answer, handing its exposure over."""
    memory_s: float
    """An answer from memory instead of all from ``read`` on."""
    exposure_s: float
    """Writing one exposure, five times a second for all since the last time."""
    warmth: Warmth
    dispersion: list[tuple[float, float]] = []
    """Of ``decode`` and ``reply``: as of ``ModelCosts``."""


class ServerCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Of a server that answers calls."""

    work: PerCall
    warmth: Warmth = Warmth()


class ModelCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Of a model server: Triton's own part, and the model's process."""

    front: PerCall
    """Triton's share of a call, by users in it."""
    front_warmth: Warmth = Warmth()
    batch: PerCall
    """The model's process: one computation for all that wait."""
    rank_share: float
    """Of a computation; what is left out where there is no time for it."""
    warmth: Warmth
    dispersion: list[tuple[float, float]] = []
    """Of a computation's time: rising pairs of a probability and a multiple of the mean."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Bursts of work beside the requests."""

    name: str
    where: str
    """``api`` and ``model``: in the event loop of each API process, in each instance of the model,
    where requests wait for it. ``redis`` and ``log``: beside them, on each machine of that part.
    ``machine``: on a machine that all share, and on none of a cluster (the generator, and what else
    was running)."""
    cores: float
    """Used on average, by each of them."""
    every_s: float
    """Mean time between two bursts; they come at random."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of machine, and what the system takes on it."""

    schema: str = SCHEMA
    name: str
    machine: dict[str, Any]
    commit: str
    measured_at: str
    made_of: list[str]
    """What of the measurement was used, in words; whatever is not named here was predicted."""
    cores: int
    together: float
    """How many times as long work takes while all cores are busy."""
    speeds: list[float] = []
    """Of a machine's cores, one quarter second after the other, as multiples of the mean."""
    hop_s: float
    """From one process to another on the machine: the message, and being woken."""
    generator_s: float
    """The load generator's work for a request, half before and half after."""
    api: ApiCosts
    redis: ServerCosts
    model: ModelCosts
    log: ServerCosts
    """Kafka's work for the exposures of a request."""
    background: list[Load]


def read_profile(path: Path | str) -> Profile:
    """Read a profile: a file, or the name of one that is kept with this program.

    Raises:
        InputError: when there is none, or it is of another version.
    """
    file = Path(path)
    if not file.is_file() and (PROFILES / f"{path}.json").is_file():
        file = PROFILES / f"{path}.json"
    try:
        profile = msgspec.json.decode(file.read_bytes(), type=Profile)
    except OSError as error:
        known = ", ".join(sorted(found.stem for found in PROFILES.glob("*.json")))
        raise InputError(
            f"--profile: wanted a file or one of {known}, found {str(path)!r}: {error.strerror}"
        ) from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{file}: wanted a profile of a cluster, found: {error}") from error
    if profile.schema != SCHEMA:
        raise InputError(f"{file}: wanted the schema {SCHEMA}, found {profile.schema!r}")
    return profile


def write_profile(profile: Profile, path: Path) -> None:
    """Write it, readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
