"""Which world the demo plays in: Online Retail when it can be had, else the simulated one."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from recsys.datasets.convert import load_mapping, shift_to_present_ms, to_tables
from recsys.datasets.download import DownloadLimits, download
from recsys.errors import RecsysError
from recsys.settings import Settings

RETAIL = "online_retail"


@dataclass(frozen=True, kw_only=True)
class DemoWorld:
    """What is replayed, and how far its history is moved towards the present."""

    name: str
    """``online_retail`` or ``simulated``."""
    about: str
    shift_ms: int
    """Whole weeks added to every time, so that weekdays stay and history ends near now."""
    click_type: str
    """The interaction type a click of the demo is sent as."""


def choose_world(settings: Settings, console: Console, *, now_ms: int, name: str) -> DemoWorld:
    """Give the world to play in. ``name`` is ``auto``, ``online_retail`` or ``simulated``."""
    if name in ("auto", RETAIL):
        try:
            return _online_retail(settings, now_ms=now_ms)
        except RecsysError as error:
            if name == RETAIL:
                raise
            console.print(f"[yellow]{error}[/yellow]")
    return DemoWorld(
        name="simulated",
        about="the simulated world (docs/simulation.md): users with drifting tastes, known truth",
        shift_ms=0,
        click_type="click",
    )


def _online_retail(settings: Settings, *, now_ms: int) -> DemoWorld:
    mapping = load_mapping(RETAIL)
    downloaded = download(mapping, settings.data_dir, limits=DownloadLimits(connect_s=5.0))
    tables = to_tables(mapping, settings.data_dir)
    return DemoWorld(
        name=RETAIL,
        about=f"Online Retail (UCI, CC BY 4.0) from {downloaded.folder}: a year of real purchases",
        shift_ms=shift_to_present_ms(tables.last_ms, now_ms),
        click_type="purchase",
    )
