"""Choose the items that stand for a user's history in each domain, and how many items each domain lacks."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.progress import progress
from data_lake.schemas import REPRESENTATIVES
from pipeline.config import EnrichConfig
from pipeline.frames import lists
from pipeline.histories import last_seen, prompt_forbidden, prompt_visible
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.kmeans import kmeans, nearest_points, spread_starts

BLOCK_BYTES = 64 << 20


def represent(sequences: pa.Table, catalogue: Catalogue, cfg: EnrichConfig, domains: Sequence[str]) -> pa.Table:
    """Return REPRESENTATIVES: a row per user and domain, users as in `sequences`, domains as in `domains`.

    Only the shown part of the training prefix is read. A user's different items with text in a domain are clustered
    into K groups, and the real item nearest each centre is taken; up to K items are taken whole. A row rests on the
    shown actions of all domains: its budget counts them.
    """
    shown = prompt_visible(sequences, cfg.prompt_share)
    index = {domain: number for number, domain in enumerate(domains)}
    domain = shown["domain"].replace_strict(index, return_dtype=pl.Int64).to_numpy()
    cell = shown["row"].to_numpy() * len(domains) + domain
    cells = sequences.num_rows * len(domains)
    counts = np.bincount(cell, minlength=cells).reshape(-1, len(domains))
    budget = budgets(counts, cfg.budget)

    row = catalogue.rows(shown["item_id"].to_arrow())
    candidates = (
        pl.DataFrame({"cell": cell, "position": shown["position"], "item": row, "item_id": shown["item_id"]})
        .filter((pl.col("item") >= 0) & pl.Series(catalogue.has_text)[row])
        .unique(["cell", "item"], keep="last", maintain_order=True)
        .sort("cell", "position")
    )
    groups, rows = candidates["cell"].to_numpy(), candidates["item"].to_numpy()
    candidates = candidates.filter(pl.Series(_choose(groups, rows, catalogue.vectors, cfg.representatives)))
    per_cell = np.bincount(candidates["cell"].to_numpy(), minlength=cells)
    users = np.repeat(np.arange(sequences.num_rows), len(domains))
    return pa.table(
        [
            sequences["user_id"].combine_chunks().take(pa.array(users)),
            pa.array(list(domains) * sequences.num_rows, pa.string()),
            lists(candidates["item_id"].to_arrow().cast(pa.string()), per_cell),
            pa.array(counts.reshape(-1).astype(np.int32)),
            pa.array(budget.reshape(-1).astype(np.int32)),
            pa.array(counts.sum(axis=1)[users].astype(np.int32)),
            last_seen(shown, sequences.num_rows)[users].to_arrow(),
            prompt_forbidden(sequences, cfg.prompt_share)[users].to_arrow(),
        ],
        schema=REPRESENTATIVES.tables[""],
    )


def budgets(counts: np.ndarray, most: int) -> np.ndarray:
    """Return round(B * max(0, 1 - n_d * D / n)) for counts (users, D); halves round up, without actions it is 0."""
    total = counts.sum(axis=1, keepdims=True)
    lack = np.maximum(total - counts * counts.shape[1], 0)
    return (2 * most * lack + total) // np.maximum(2 * total, 1)


def _choose(cell: np.ndarray, item: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Return which candidates represent their cell; rows of one cell stand together."""
    chosen = np.ones(len(cell), dtype=bool)
    _, start, size = np.unique(cell, return_index=True, return_counts=True)
    with progress("clustering", int(size[size > k].sum()), "items") as work:
        for length in np.unique(size[size > k]):  # sets of one size are clustered together, so that nothing is padded
            starts = start[size == length]
            block = max(1, BLOCK_BYTES // (int(length) * vectors.shape[1] * 4))
            for first in range(0, len(starts), block):
                rows = starts[first : first + block, None] + np.arange(length)  # (G, n)
                points = vectors[item[rows]]  # (G, n, d)
                centres, group = kmeans(points, spread_starts(points, k))
                chosen[rows] = nearest_points(points, centres, group)
                work.advance(rows.size)
    return chosen
