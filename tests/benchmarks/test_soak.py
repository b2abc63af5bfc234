"""What counts as growth in a soak."""

from __future__ import annotations

from benchmarks.loadtest.growth import growth


def _looks(rss_mib: list[float], descriptors: list[float]) -> list[dict[str, dict[str, float]]]:
    pairs = zip(rss_mib, descriptors, strict=True)
    return [{"api": {"rss_mib": rss, "descriptors": open_}} for rss, open_ in pairs]


def test_filling_caches_are_not_growth() -> None:
    assert growth(_looks([100, 150, *[160.0] * 8], [20, 30, *[40.0] * 8])) == {}


def test_a_slow_leak_of_memory_is() -> None:
    assert "memory" in growth(_looks([100 + n for n in range(30)], [20] * 30))["api"]


def test_a_leak_of_descriptors_is() -> None:
    assert "descriptors" in growth(_looks([100] * 30, [20.0 + n for n in range(30)]))["api"]
