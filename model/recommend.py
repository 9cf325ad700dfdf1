"""Recommend the best items of every domain to every user, as the user stands after the last real action."""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from data_lake.schemas import RECOMMENDATIONS
from data_lake.settings_errors import parse
from data_lake.tables import check, write_parts
from model.config import RecommendConfig
from model.data.training_set import TrainingSet
from model.device import choose_device
from model.evaluation.candidates import SCORES_AT_ONCE, history
from model.evaluation.evaluate import phase_folders
from model.evaluation.ranking import refuse_non_finite
from model.evaluation.scoring import Scorer, load_scorer
from model.settings import read_settings

Ints = NDArray[np.int64]


def main(args: argparse.Namespace) -> None:
    """Run `python -m model recommend`."""
    recommend(args.data, args.run, args.out, parse(RecommendConfig, read_settings(args.config)))


def recommend(data_dir: Path, run_dir: Path, out_dir: Path, cfg: RecommendConfig) -> None:
    """Write out_dir/recommendations by the last phase that run_dir holds."""
    phase, folder = list(phase_folders(run_dir).items())[-1]
    data = TrainingSet.load(data_dir, cfg.stream)
    table = top_items(data, load_scorer(folder, data, choose_device(cfg.device)), cfg, phase)
    write_parts(table, out_dir / "recommendations")


def top_items(data: TrainingSet, score: Scorer, cfg: RecommendConfig, phase: str = "model") -> pa.Table:
    """Return the `cfg.top` best unseen items per user and domain, by user id, domain, then rank.

    Items of the user's real actions are left out; a user who has seen nearly all of a domain gets fewer rows.
    """
    by_length = np.argsort(data.lengths, kind="stable")
    found = []
    for domain, columns in enumerate(data.domain_items):
        step = max(1, min(cfg.batch_size, SCORES_AT_ONCE // max(1, len(columns))))
        for start in range(0, len(by_length) if len(columns) else 0, step):
            users = by_length[start : start + step]
            row, rank, column, scores = _best(data, score, users, domain, cfg.top, phase)
            found.append((users[row], np.full(len(row), domain), rank, columns[column], scores))
    user, domain_of, rank, item, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    by_id = np.empty(data.n_users, dtype=np.int64)
    by_id[pc.sort_indices(data.user_ids).to_numpy()] = np.arange(data.n_users)
    order = np.lexsort((rank, domain_of, by_id[user]))
    domains = pa.DictionaryArray.from_arrays(pa.array(domain_of[order], pa.int32()), pa.array(data.domains))
    columns_out = {
        "user_id": data.user_ids.take(pa.array(user[order])),
        "domain": domains.dictionary_decode(),
        "rank": rank[order].astype(np.int32),
        "item_id": data.item_ids.take(pa.array(item[order])),
        "title": data.titles.take(pa.array(item[order])),
        "score": scores[order],
    }
    return check(pa.table(columns_out), RECOMMENDATIONS)


def _best(
    data: TrainingSet, score: Scorer, users: Ints, domain: int, top: int, phase: str
) -> tuple[Ints, Ints, Ints, NDArray[np.float32]]:
    """Return user row, rank from 1, column and score of the best unseen items; of equal scores the first item wins."""
    columns, prefix_length = data.domain_items[domain], data.lengths[users]
    scores = score(users, prefix_length, data.domains[domain]).float()  # (B, M)
    refuse_non_finite(data, users, columns, scores, phase)
    seen_row, seen_column = history(data, users, prefix_length, columns)
    scores = scores.index_put(
        (torch.from_numpy(seen_row).to(scores.device), torch.from_numpy(seen_column).to(scores.device)),
        torch.tensor(-torch.inf, device=scores.device),
    )
    least = scores.topk(min(top, len(columns)), dim=1).values[:, -1:]  # (B, 1)
    chosen = ((scores >= least) & torch.isfinite(scores)).nonzero()  # (C, 2): ties with the last may make too many
    row, column = chosen.cpu().numpy().T
    values = scores[chosen[:, 0], chosen[:, 1]].cpu().numpy()
    order = np.lexsort((column, -values, row))
    rank = np.arange(1, len(row) + 1) - np.searchsorted(row, row)  # `row` rises, before and after the sort
    kept = rank <= top
    return row[kept], rank[kept], column[order][kept], values[order][kept]
