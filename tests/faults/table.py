"""How the faults of a session ended: a line per kind."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

FAULT = "fault"
"""Name of the property of a test's report that tells the kind of a fault, whether it stopped the run, and how the next
run found the lake."""
STOPPED = "stopped"
"""Of a disturbed run: the disturbance ended it."""
OUTCOMES = ("survived", "refused", "lost")
"""Of a disturbed lake with the next run: all is there as if nothing had been, it says what to do, or neither."""


def table(endings: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the lines of the table, the last one over all kinds; no line without any ending."""
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in endings:
        by_kind[each["kind"]] += Counter({"times": 1, STOPPED: int(each[STOPPED]), each["outcome"]: 1})
    if not by_kind:
        return []
    columns = ("times", STOPPED, *OUTCOMES)
    rows = [*sorted(by_kind.items()), ("all", sum(by_kind.values(), Counter()))]
    lines = [f"{kind:<20}" + "".join(f"{counts[name]:>10}" for name in columns) for kind, counts in rows]
    return [f"{'kind':<20}" + "".join(f"{name:>10}" for name in columns), *lines]
