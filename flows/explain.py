"""One user from history to recommendations: what was inserted, the profiles, and what each score is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from data_lake.lake import Lake
from data_lake.messages import escape_control
from data_lake.schemas import ALL, SPLITS
from data_lake.tables import open_parts
from flows.recommend import open_model
from flows.run import Run
from flows.show import plain
from flows.text import table
from model.data.training_set import TrainingSet
from model.explain import ExplainedScore, LeftOut
from model.explain import explain as explain_scores
from model.recommend import read_lists

ACTIONS = 30
"""The last positions of a history that are shown to a person."""
MOVED_MOST = 3
INSERTED = ("from_domain", "to_domain", "answer", "item_id", "title", "relevance", "weight")


@dataclass(frozen=True)
class Explained:
    """What the lake's current model and tables say of a user."""

    user: str
    history: list[dict[str, Any]]
    """From the oldest on: time, domain, item_id, title, split, and whether it was inserted."""
    inserted: list[dict[str, Any]]
    profiles: dict[str, str]
    """By domain, and "all"; empty where there are none."""
    scores: list[ExplainedScore]

    def __str__(self) -> str:
        shown, real = self.history[-ACTIONS:], sum(not row["inserted"] for row in self.history)
        last = f", the last {ACTIONS} of {len(self.history):,}" if len(self.history) > ACTIONS else ""
        parts = [
            f"User {escape_control(self.user)}: {real:,} actions, {len(self.history) - real:,} inserted items{last}",
            table(shown),
        ]
        if self.inserted:
            parts.append("Inserted, and the answers that they come from:\n" + table(self.inserted))
        parts += [f"Profile, {escape_control(scope)}: {escape_control(text)}" for scope, text in self.profiles.items()]
        parts += map(_told, self.scores)
        return "\n\n".join(filter(None, parts))


def explain(run: Run, user: str, item: str | None, top: int) -> Explained:
    """Return what there is to say of a user and the `top` best items per domain, or one item.

    Raises UnknownIdError for a user or an item that the model does not know.
    """
    cfg = run.settings.recommend.model_copy(update={"top": top})
    model = open_model(run, cfg)
    scores = explain_scores(model, user, cfg, item, read_lists(model.data, cfg))
    inserted = [row for row in _rows(run.lake, "grounded_items", user) if row["kept"]]
    profiles = {row["domain"]: row["text"] for row in _rows(run.lake, "domain_profiles", user) if row["text"]}
    for row in _rows(run.lake, "user_profiles", user):
        profiles |= {ALL: row["text"]} if row["text"] else {}
    return Explained(
        user, _history(model.data, user), [{name: row[name] for name in INSERTED} for row in inserted], profiles, scores
    )


def _history(data: TrainingSet, user: str) -> list[dict[str, Any]]:
    row = pc.index(data.user_ids, user).as_py()
    positions = range(data.offsets[row], data.offsets[row + 1])
    return [
        {
            "time": datetime.fromtimestamp(data.times[at] / 1000, UTC).isoformat(timespec="minutes")[:16],
            "domain": data.domains[data.item_domain[data.items[at]]],
            "item_id": data.item_ids[int(data.items[at])].as_py(),
            "title": data.titles[int(data.items[at])].as_py(),
            "split": SPLITS[data.splits[at]],
            "inserted": bool(data.synthetic[at]),
        }
        for at in positions
    ]


def _rows(lake: Lake, artifact: str, user: str) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a user, none where the artifact is not there."""
    if lake.manifest(artifact) is None:
        return []
    found = open_parts(lake.path(artifact)).to_table(filter=ds.field("user_id") == user)
    return [plain(row) for row in found.to_pylist()]


def _told(it: ExplainedScore) -> str:
    place = f"{it.rank:,} of {it.candidates:,}" if it.rank else "chosen already"
    parts = " + ".join(f"{name} {value:.3f}" for name, value in it.parts.items())
    lines = [f"{it.domain}, {place}: {_named(it)}", f"  score {it.score:.3f} = {parts}"]
    lines += [
        f"  without {_named(each)}{', inserted' if each.is_synthetic else ''}: {each.score:.3f} "
        f"({each.score - it.score:+.3f})"
        for each in it.left_out[:MOVED_MOST]
    ]
    return "\n".join(lines)


def _named(it: ExplainedScore | LeftOut) -> str:
    return escape_control(f"{it.item_id} ({it.title})" if it.title else it.item_id)
