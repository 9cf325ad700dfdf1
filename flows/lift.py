"""How often users really chose the items that answers mean: the artifact `answer_lift` in a few lines."""

from typing import Any

from data_lake.lake import Lake
from data_lake.messages import escape_control


def lift(lake: Lake) -> list[dict[str, Any]]:
    """Return the rows of `answer_lift` over all ranks, with `times_chance`; none where grounded items are newer."""
    measured, grounded = lake.manifest("answer_lift"), lake.manifest("grounded_items")
    if not measured or not grounded:
        return []
    if measured.inputs["grounded_items"].content != grounded.outputs["grounded_items"].content:
        return []
    rows = [row for row in lake.read("answer_lift").to_pylist() if row.pop("band") is None]
    return [row | {"times_chance": row["share"] / row["chance"] if row["chance"] else None} for row in rows]


def lift_lines(lake: Lake) -> list[str]:
    """Return a sentence per kind of truth and pair of domains: what was inserted, beside chance and popular items."""
    by_key: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in lift(lake):
        by_key.setdefault((row["truth"], row["from_domain"], row["to_domain"]), {})[row["source"]] = row
    lines = []
    for (truth, source, target), rows in by_key.items():
        if not (kept := rows.get("kept")):
            continue
        beside = ", ".join(f"{name} {rows[name]['share']:.2%}" for name in BESIDE if name in rows)
        lines.append(
            f"{escape_control(source)} to {escape_control(target)}: {kept['users']:,} users chose {kept['share']:.2%} "
            f"[{kept['low']:.2%}, {kept['high']:.2%}] of {kept['answers']:,} inserted items {TRUTHS[truth]} "
            f"(random items {kept['chance']:.3%}, {beside})"
        )
    return lines


TRUTHS = {"hidden": "in the domain that was hidden from the prompt", "unshown": "after what the prompt showed"}
BESIDE = ("another user", "popular", "retrieval", "cooccurrence", "candidates")
"""Sources of `answer_lift` that stand beside what was inserted."""
