"""Measure a run: where each target ranks, and what that makes per protocol, domain and group of users."""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_lake.errors import UserError
from data_lake.schemas import METRICS, RANKS, TEST, VALIDATION
from data_lake.settings_errors import parse
from data_lake.tables import write_parts
from model.checkpoint import MODEL
from model.config import PHASES, EvaluateConfig
from model.data.training_set import TrainingSet
from model.device import choose_device
from model.evaluation.candidates import Targets, blocks, find_targets
from model.evaluation.groups import groups
from model.evaluation.metrics import METRIC_NAMES, compute_metrics, interval, resampled_sums
from model.evaluation.ranking import Ranked, rank_targets
from model.evaluation.scoring import Scorer, load_scorer
from model.settings import read_settings

BOOTSTRAP_SEED = 0


class Measured(NamedTuple):
    """The two tables that an evaluation makes."""

    metrics: pa.Table
    ranks: pa.Table


def main(args: argparse.Namespace) -> None:
    """Run `python -m model evaluate`."""
    evaluate(args.data, args.run, args.out, parse(EvaluateConfig, read_settings(args.config)))


def evaluate(data_dir: Path, run_dir: Path, out_dir: Path, cfg: EvaluateConfig) -> None:
    """Write out_dir/metrics and out_dir/ranks for the phases that run_dir holds."""
    folders = phase_folders(run_dir)
    data = TrainingSet.load(data_dir, cfg.stream)
    scorers = {phase: load_scorer(folder, data, choose_device(cfg.device)) for phase, folder in folders.items()}
    measured = measure(data, scorers, cfg)
    write_parts(measured.metrics, out_dir / "metrics")
    write_parts(measured.ranks, out_dir / "ranks")


def phase_folders(run_dir: Path) -> dict[str, Path]:
    """Return the folder of each phase that a run holds, in the order of the phases."""
    folders = {phase: run_dir / name for phase, name in PHASES.items()}
    found = {phase: folder for phase, folder in folders.items() if (folder / MODEL).is_file()}
    if not found:
        raise UserError(
            f"{run_dir} holds no trained phase ({' or '.join(PHASES.values())} with {MODEL}). "
            "Train first: python -m model train --data DIR --out DIR."
        )
    return found


def measure(data: TrainingSet, scorers: Mapping[str, Scorer], cfg: EvaluateConfig) -> Measured:
    """Rank the validation and test targets by each scorer, named by its phase.

    Rows stand by phase, split, protocol, then domain (all first), group and metric, or user.
    """
    rows: list[dict[str, object]] = []
    tables: dict[tuple[str, str, str], pa.Table] = {}
    for split in (VALIDATION, TEST):
        start = time.monotonic()
        targets = find_targets(data, split, cfg.users)
        drawn = blocks(data, targets, cfg.protocols, cfg.batch_size)
        ranked = rank_targets(data, targets, drawn, scorers, cfg.protocols)
        rows += _metric_rows(data, targets, ranked, cfg.resamples)
        for (phase, protocol), found in ranked.items():
            tables[phase, split, protocol] = rank_table(data, targets, phase, protocol, found)
        print(f"evaluate {split}: {len(targets):,} targets in {time.monotonic() - start:.1f} s", file=sys.stderr)
    phases = list(scorers)
    rows.sort(key=lambda row: phases.index(str(row["phase"])))
    ranks = pa.concat_tables(tables[key] for key in sorted(tables, key=lambda key: phases.index(key[0])))
    return Measured(pa.Table.from_pylist(rows, METRICS.tables[""]), ranks)


def rank_table(data: TrainingSet, targets: Targets, phase: str, protocol: str, found: Ranked) -> pa.Table:
    domains = pa.DictionaryArray.from_arrays(pa.array(targets.domains, pa.int32()), pa.array(data.domains))
    columns = {
        "phase": pa.repeat(phase, len(targets)),
        "split": pa.repeat(targets.split, len(targets)),
        "protocol": pa.repeat(protocol, len(targets)),
        "user_id": data.user_ids.take(pa.array(targets.users)),
        "domain": domains.dictionary_decode(),
        "item_id": data.item_ids.take(pa.array(targets.items)),
        "rank": found.ranks,
        "candidates": found.candidates,
    }
    return pa.table(columns, schema=RANKS.tables[""])


def _metric_rows(
    data: TrainingSet, targets: Targets, ranked: Mapping[tuple[str, str], Ranked], resamples: int
) -> list[dict[str, object]]:
    """One row per phase, protocol, domain, group and metric; groups without a user are left out."""
    numbers = np.concatenate([compute_metrics(found.ranks) for found in ranked.values()], axis=1)  # (T, C)
    members = groups(data, targets)
    domains = range(len(data.domains))
    parts = [np.flatnonzero(member & (targets.domains == domain)) for domain in domains for member in members.values()]
    sums = resampled_sums(numbers, parts, resamples, BOOTSTRAP_SEED)
    by_domain = sums.reshape(len(data.domains), len(members), *sums.shape[1:])
    named: list[tuple[str | None, NDArray[np.bool_], NDArray[np.float64]]] = [
        (None, np.ones(len(targets), dtype=bool), by_domain.sum(axis=0)),
        *((data.domains[domain], targets.domains == domain, by_domain[domain]) for domain in domains),
    ]
    described = []
    for domain, is_here, group_sums in named:
        for (group, member), drawn in zip(members.items(), group_sums, strict=True):
            users = np.flatnonzero(member & is_here)
            if len(users):
                mean = numbers[users].mean(axis=0)  # (C,)
                described.append((domain, group, users, mean, *interval(drawn, mean)))
    rows: list[dict[str, object]] = []
    for index, ((phase, protocol), found) in enumerate(ranked.items()):
        for domain, group, users, mean, low, high in described:
            about = {"phase": phase, "split": targets.split, "protocol": protocol, "domain": domain, "group": group}
            size = {"users": len(users), "candidates": found.candidates[users].mean()}
            for metric, column in zip(METRIC_NAMES, range(index * len(METRIC_NAMES), numbers.shape[1]), strict=False):
                figures = {"value": mean[column], "low": low[column], "high": high[column]}
                rows.append({**about, "metric": metric, **figures, **size})
    return rows
