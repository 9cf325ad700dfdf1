"""Recommend the best items of every domain to every user, as the user stands after the last real action.

Users are those of the training set, or of histories that are given now.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from data_lake.errors import UnknownIdError, UserError
from data_lake.progress import progress
from data_lake.schemas import RECOMMENDATIONS
from data_lake.settings_errors import parse
from data_lake.tables import check, write_parts
from model.config import RecommendConfig
from model.data.histories import Histories, with_histories
from model.data.item_lists import allowed_items, read_ids
from model.data.training_set import Bools, Ints, TrainingSet
from model.device import choose_device
from model.evaluation.candidates import SCORES_AT_ONCE, history
from model.evaluation.evaluate import phase_folders
from model.evaluation.ranking import refuse_non_finite
from model.evaluation.scoring import NetworkScorer, Scorer, load_scorer
from model.settings import read_settings

COMPARED = 20_000
"""Ids among which those that are nearly an unknown one are looked for: of more, those that begin or end as it does."""


def main(args: argparse.Namespace) -> None:
    """Run `python -m model recommend`."""
    recommend(args.data, args.run, args.out, parse(RecommendConfig, read_settings(args.config)))


def recommend(data_dir: Path, run_dir: Path, out_dir: Path, cfg: RecommendConfig) -> None:
    """Write out_dir/recommendations by the last phase that run_dir holds."""
    phase, folder = list(phase_folders(run_dir).items())[-1]
    data = TrainingSet.load(data_dir, cfg.stream)
    allowed = read_lists(data, cfg)
    table = top_items(data, load_scorer(folder, data, choose_device(cfg.device)), cfg, phase, allowed)
    write_parts(table, out_dir / "recommendations")


def read_lists(data: TrainingSet, cfg: RecommendConfig) -> Bools:
    """Return (items + 1,): which items may be recommended; say what of the files of ids is not in the catalogue."""
    ids = {path: read_ids(path, "item_id") for path in cfg.sources()}
    for path, listed in ids.items():
        unknown = len(listed) - pc.is_in(listed, value_set=data.item_ids).true_count
        if unknown:
            print(f"{path.name}: ids that the catalogue lacks: {unknown:,} of {len(listed):,}.", file=sys.stderr)
    return allowed_items(data, *(ids[path] if path else None for path in (cfg.allow, cfg.deny)))


@dataclass(frozen=True)
class Served:
    """Recommendations for histories that were given, and what of these was read."""

    recommendations: pa.Table
    histories: Histories
    by_popularity: int
    """Users without any known item whose lists are what is popular now."""
    left_out: int
    """Users without any known item who get nothing, as the network knows no recent popularity."""

    def notes(self) -> list[str]:
        """Return a sentence about each thing that was given and not used."""
        given, users, found = self.histories, self.histories.data.n_users, list[str]()
        if given.unknown_actions:
            shown = ", ".join(given.unknown_items[:3].to_pylist()) + (", ..." if len(given.unknown_items) > 3 else "")
            found.append(
                f"Actions on unknown items, not read: {given.unknown_actions:,} of {given.actions:,} ({shown})."
            )
        if self.by_popularity:
            found.append(
                f"Users without a known item: {self.by_popularity:,} of {users:,}. They get what is popular now."
            )
        if self.left_out:
            found.append(
                f"Users without a known item: {self.left_out:,} of {users:,}. They get nothing, for this model knows "
                "no recent popularity ([train.network] recency_half_lives is empty)."
            )
        return found


class Recommender:
    """A trained network that recommends for any histories over the items that it was trained with."""

    def __init__(self, data: TrainingSet, scorer: NetworkScorer, phase: str = "model") -> None:
        """data: the items, and the users whose sequences are known already."""
        self.data, self.scorer, self.phase = data, scorer, phase

    @classmethod
    def load(cls, data_dir: Path, phase_dir: Path, cfg: RecommendConfig) -> Self:
        """Read the folder of a training set, and that of a phase trained on it (OUT/checkpoint)."""
        data = TrainingSet.load(data_dir, cfg.stream)
        return cls(data, load_scorer(phase_dir, data, choose_device(cfg.device)), phase_dir.name)

    def recommend(
        self, given: pa.Table, cfg: RecommendConfig, *, users: pa.Array | None = None, allowed: Bools | None = None,
        domains: Sequence[str] = (),
    ) -> Served:  # fmt: skip
        """Return the best unseen items for the histories of `given` (see `with_histories`).

        A user without any known item gets what is popular now. Raises UserError for a domain that is none.
        """
        histories = with_histories(self.data, given, users)
        found = top_items(histories.data, self.scorer.for_users(histories.data), cfg, self.phase, allowed, domains)
        empty = histories.data.lengths == 0
        if self.scorer.network.recency_popularity is not None:
            return Served(found, histories, int(empty.sum()), 0)
        nothing = histories.data.user_ids.filter(pa.array(empty))
        found = found.filter(pc.invert(pc.is_in(found["user_id"], value_set=nothing)))
        return Served(found, histories, 0, len(nothing))

    def similar(self, item: str, top: int, domains: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the `top` items per domain whose vectors have the largest cosine with the item's.

        One row per item: domain, rank from 1, item_id, title, cosine. Raises UserError for an unknown item or domain.
        """
        number, vectors = self.number(item), torch.nn.functional.normalize(self.scorer.vectors, dim=-1)
        rows: list[dict[str, Any]] = []
        for domain in checked_domains(self.data, domains):
            columns = self.data.domain_items[self.data.domains.index(domain)]
            columns = columns[columns != number]
            cosine = (vectors[torch.from_numpy(columns).to(vectors.device)] @ vectors[number]).cpu().numpy()
            best = np.argsort(-cosine, kind="stable")[:top]
            ids, titles = (column.take(pa.array(columns[best])) for column in (self.data.item_ids, self.data.titles))
            found = zip(ids.to_pylist(), titles.to_pylist(), cosine[best].tolist(), strict=True)
            rows += [
                {"domain": domain, "rank": rank, "item_id": other, "title": title, "cosine": value}
                for rank, (other, title, value) in enumerate(found, start=1)
            ]
        return rows

    def is_told_apart(self, item: str) -> bool:
        """Whether the item has a text or a training action, without both of which it has a vector with others alike."""
        number = self.number(item)
        return bool(self.data.has_text[number] or self.data.train_actions[number])

    def number(self, item: str) -> int:
        """Return an item's number; raise UnknownIdError where there is no such item."""
        number: int = pc.index(self.data.item_ids, item).as_py()
        if number < 0:
            raise unknown_id("item", item, self.data.item_ids, "`edt show items` shows what ids look like.")
        return number


def unknown_id(kind: str, name: str, ids: pa.Array, what_to_do: str) -> UnknownIdError:
    """Return the error about an id that is none of `ids`."""
    if len(ids) > COMPARED:
        ids = ids.filter(pc.or_(pc.starts_with(ids, name[:3]), pc.ends_with(ids, name[-3:])))[:COMPARED]
    return UnknownIdError(kind, name, ids.drop_null().to_pylist(), what_to_do)


def checked_domains(data: TrainingSet, domains: Sequence[str]) -> Sequence[str]:
    """Return these domains, or all where none is named; raise UserError for one that is none."""
    for name in domains:
        if name not in data.domains:
            raise UserError(f"There is no domain '{name}'. The model knows {', '.join(data.domains)}.")
    return domains or data.domains


def as_lists(table: pa.Table) -> list[dict[str, Any]]:
    """Return RECOMMENDATIONS as an object per user and domain: user, domain, and items of item, title and score."""
    found: list[dict[str, Any]] = []
    for row in table.to_pylist():
        if row["rank"] == 1:
            found.append({"user": row["user_id"], "domain": row["domain"], "items": []})
        found[-1]["items"].append({"item": row["item_id"], "title": row["title"], "score": row["score"]})
    return found


def write_lists(table: pa.Table, path: Path) -> None:
    """Write RECOMMENDATIONS as JSON lines, an object of `as_lists` each."""
    with path.open("w", encoding="utf-8") as file:
        for each in as_lists(table):
            file.write(json.dumps(each, ensure_ascii=False) + "\n")


def top_items(
    data: TrainingSet, score: Scorer, cfg: RecommendConfig, phase: str = "model", allowed: Bools | None = None,
    domains: Sequence[str] = (),
) -> pa.Table:  # fmt: skip
    """Return the `cfg.top` best unseen items per user and domain, by user id, domain, then rank.

    allowed: (items + 1,), what may be recommended; None: everything. domains: those asked for; none: all.
    Items of the user's real actions are left out; a user who has seen nearly all of a domain gets fewer rows.
    """
    asked = checked_domains(data, domains)
    by_length = np.argsort(data.lengths, kind="stable")
    found = []
    with progress("recommending", data.n_users * len(asked), "lists") as work:
        for domain, columns in enumerate(data.domain_items):
            if data.domains[domain] not in asked:
                continue
            step = max(1, min(cfg.batch_size, SCORES_AT_ONCE // max(1, len(columns))))
            for start in range(0, len(by_length) if len(columns) else 0, step):
                users = by_length[start : start + step]
                may = None if allowed is None else allowed[columns]
                row, rank, column, scores = _best(data, score, users, domain, cfg.top, phase, may)
                found.append((users[row], np.full(len(row), domain), rank, columns[column], scores))
                work.advance(len(users))
    if not found:
        return RECOMMENDATIONS.tables[""].empty_table()
    user, domain_of, rank, item, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    by_id = np.empty(data.n_users, dtype=np.int64)
    by_id[pc.sort_indices(data.user_ids).to_numpy()] = np.arange(data.n_users)
    order = np.lexsort((rank, domain_of, by_id[user]))
    names = pa.DictionaryArray.from_arrays(pa.array(domain_of[order], pa.int32()), pa.array(data.domains))
    columns_out = {
        "user_id": data.user_ids.take(pa.array(user[order])),
        "domain": names.dictionary_decode(),
        "rank": rank[order].astype(np.int32),
        "item_id": data.item_ids.take(pa.array(item[order])),
        "title": data.titles.take(pa.array(item[order])),
        "score": scores[order],
    }
    return check(pa.table(columns_out), RECOMMENDATIONS)


def _best(
    data: TrainingSet, score: Scorer, users: Ints, domain: int, top: int, phase: str, allowed: Bools | None
) -> tuple[Ints, Ints, Ints, NDArray[np.float32]]:
    """Return user row, rank from 1, column and score of the best unseen items; of equal scores the first item wins."""
    columns, prefix_length = data.domain_items[domain], data.lengths[users]
    scores = score(users, prefix_length, data.domains[domain]).float()  # (B, M)
    refuse_non_finite(data, users, columns, scores, phase)
    seen_row, seen_column = history(data, users, prefix_length, columns)
    scores.index_put_(
        (torch.from_numpy(seen_row).to(scores.device), torch.from_numpy(seen_column).to(scores.device)),
        torch.tensor(-torch.inf, device=scores.device),
    )
    if allowed is not None:
        scores.masked_fill_(~torch.from_numpy(allowed).to(scores.device), -torch.inf)
    least = scores.topk(min(top, len(columns)), dim=1).values[:, -1:].clamp_(min=torch.finfo().min)  # (B, 1)
    chosen = (scores >= least).nonzero()  # (C, 2): ties with the last may make too many
    row, column = chosen.cpu().numpy().T
    values = scores[chosen[:, 0], chosen[:, 1]].cpu().numpy()
    order = np.lexsort((column, -values, row))
    rank = np.arange(1, len(row) + 1) - np.searchsorted(row, row)  # `row` rises, before and after the sort
    kept = rank <= top
    return row[kept], rank[kept], column[order][kept], values[order][kept]
