"""What of a benchmark's figures grows with the data, and how: the straight line that lies nearest to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """`fixed` whatever the size, and `each_gb` more for each gigabyte. `off` is the largest distance of a measurement from it."""

    fixed: float
    each_gb: float
    off: float

    def __str__(self) -> str:
        return f"{self.fixed:8.1f} s and {self.each_gb:7.2f} s for each GB; no measurement is further from that than {self.off:.1f} s"


def growth(figures: Mapping[int, Mapping[str, float]]) -> dict[str, Line]:
    """For each figure, by MB of data, the line of least squares; of fewer than two sizes nothing can be said."""
    if len(figures) < 2:
        return {}
    names = next(iter(figures.values()))
    return {name: line({mb / 1000: row[name] for mb, row in figures.items()}) for name in names if name != "mb"}


def line(points: Mapping[float, float]) -> Line:
    """The line of least squares through values by their place."""
    middle, mean = sum(points) / len(points), sum(points.values()) / len(points)
    slope = sum((x - middle) * (y - mean) for x, y in points.items()) / sum((x - middle) ** 2 for x in points)
    fixed = mean - slope * middle
    return Line(round(fixed, 2), round(slope, 2), round(max(abs(y - fixed - slope * x) for x, y in points.items()), 2))
