"""Sliding windows by buckets of their slide, as one writes them by hand for ``stateful_map``.

Four windows, three lengths of bucket: those of the week and the month are the same days. A window
ends with the bucket of the newest event, as the hopping window does that began first.
"""

from __future__ import annotations

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SLIDES = (5 * MINUTE, HOUR, DAY)
WINDOWS = ((0, 12), (1, 24), (2, 7), (2, 30))
"""Of the last hour, day, week and month: which slide, and how many buckets of it."""

Bucket = list[float]
"""Count, sum, least and greatest."""
State = tuple[dict[int, Bucket], ...]
"""By slide, by number of the bucket."""


def empty() -> State:
    """Give the state of a key nothing is known of."""
    return tuple({} for _ in SLIDES)


def update(state: State, time_ms: int, value: float) -> list[tuple[float, ...]]:
    """Count an event in and give count, sum, mean, least and greatest of each window.

    Events of a key come in the order of their times.
    """
    for buckets, slide, keep in zip(state, SLIDES, (12, 24, 30), strict=True):
        number = time_ms // slide
        found = buckets.get(number)
        if found is None:
            for old in [n for n in buckets if n <= number - keep]:
                del buckets[old]
            buckets[number] = [1.0, value, value, value]
            continue
        found[0] += 1.0
        found[1] += value
        if value < found[2]:
            found[2] = value
        if value > found[3]:
            found[3] = value
    answer = []
    for which, length in WINDOWS:
        first = time_ms // SLIDES[which] - length + 1
        inside = [bucket for number, bucket in state[which].items() if number >= first]
        count = sum(bucket[0] for bucket in inside)
        total = sum(bucket[1] for bucket in inside)
        least = min(bucket[2] for bucket in inside)
        greatest = max(bucket[3] for bucket in inside)
        answer.append((count, total, total / count, least, greatest))
    return answer
