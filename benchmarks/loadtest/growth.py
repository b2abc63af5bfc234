"""Does memory or the number of descriptors grow over a soak?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

_MEMORY_SHARE, _MEMORY_MIB, _DESCRIPTORS = 0.02, 1.0, 5
_SETTLING = 0.2

Sizes = dict[str, dict[str, float]]
"""By part: ``rss_mib`` and ``descriptors``, among others."""


def growth(looks: Sequence[Sizes]) -> dict[str, str]:
    """Say what grew, by part; empty when nothing did.

    The first fifth of the looks is left for caches to fill. Of the rest, the median of the first
    quarter is compared with that of the last: memory may grow by 2 % or 1 MiB, descriptors by 5.
    """
    settled = list(looks)[int(len(looks) * _SETTLING) :]
    quarter = max(1, len(settled) // 4)
    grown: dict[str, str] = {}
    for part in settled[0] if settled else ():
        if not all(part in look for look in settled):
            continue  # it ended, or began, on the way
        before, after = (
            {key: median(look[part][key] for look in some) for key in ("rss_mib", "descriptors")}
            for some in (settled[:quarter], settled[-quarter:])
        )
        more = after["rss_mib"] - before["rss_mib"]
        if more > max(_MEMORY_MIB, _MEMORY_SHARE * before["rss_mib"]):
            grown[part] = f"memory {before['rss_mib']:.1f} to {after['rss_mib']:.1f} MiB"
        elif after["descriptors"] - before["descriptors"] > _DESCRIPTORS:
            grown[part] = f"descriptors {before['descriptors']:.0f} to {after['descriptors']:.0f}"
    return grown
