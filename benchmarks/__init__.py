"""Speed, as ratios of CPU time between things run by turns in one process: `python -m benchmarks`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table: a measured ratio beside its limit by operation count and the verdict's threshold."""

    what: str
    measured: float
    limit: float
    target: float | None  # the worst value that passes
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """ok, or the target that was missed."""
        if self.target is None:
            return "no target"
        good = self.measured >= self.target if self.higher_is_better else self.measured <= self.target
        return "ok" if good else f"missed ({self.target:.2f})"


def interleaved(steps: Mapping[str, Step], repeats: int, seconds: float) -> dict[str, float]:
    """Median CPU seconds of each step, run by turns so that a busy machine slows all alike, after one unmeasured turn.

    Stops after `repeats` turns or, with at least three, after `seconds`.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    for turn in range(repeats + 1):
        if turn > 3 and time.perf_counter() - began > seconds:
            break
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    cells = [("what", "measured", "limit", "verdict")]
    cells += [
        (row.what, f"{row.measured:.2f}", "" if math.isnan(row.limit) else f"{row.limit:.2f}", row.verdict)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}".rstrip() for a, b, c, d in cells]
    return "\n".join([lines[0], "-" * (sum(widths) + 6), *lines[1:]])
