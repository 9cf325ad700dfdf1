"""A trained phase as a folder that recommends by itself: weights, settings, items and their popularity; no user in it.

The layout is that of the Hugging Face hub: config.json, model.safetensors, and a README.md that others write. Beside
them lie `catalogue`, the training set without its users, and popularity.safetensors.

Letters used in this file: B users, M items of a domain, D hidden size, H half-lives.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data_lake.errors import UserError
from data_lake.schemas import TRAINING_SET
from data_lake.tables import empty, read_tables, write_parts
from model.checkpoint import MODEL, PhaseCheckpoint, check_weights, load_tensors
from model.config import RecommendConfig
from model.data.training_set import Ints
from model.evaluation.scoring import NetworkScorer
from model.recommend import Recommender

MODEL_TYPE = "llm-edt"
CATALOGUE = "catalogue"
POPULARITY = "popularity.safetensors"
USERS_AT_ONCE = 1024


def export_model(out: Path, data_dir: Path, phase_dir: Path, recommender: Recommender) -> None:
    """Write the folder; `recommender` is that of the training set and the phase."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(phase_dir / MODEL, out / MODEL)
    about = PhaseCheckpoint(phase_dir).config() | {"model_type": MODEL_TYPE}
    (out / "config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in TRAINING_SET.tables:
        is_of_items = name in ("items", "item_vectors", "info")
        table = read_tables(data_dir, TRAINING_SET, name) if is_of_items else empty(TRAINING_SET, name)
        write_parts(table, out / CATALOGUE / name)
    recency = recommender.scorer.network.recency_popularity
    if recency is not None:
        save_file({"counts": recency.counts[:, recency.now].cpu().contiguous()}, out / POPULARITY)  # (items + 1, H)


def load_exported(folder: Path, cfg: RecommendConfig) -> Recommender:
    """Return the model of such a folder; raise UserError where it is none."""
    if not (folder / CATALOGUE).is_dir():
        raise UserError(
            f"{folder} is no exported model: no folder '{CATALOGUE}'. Pass a folder that `edt export` wrote."
        )
    found = Recommender.load(folder / CATALOGUE, folder, cfg)
    recency = found.scorer.network.recency_popularity
    if recency is not None:
        now = recency.counts[:, recency.now]
        check_weights(folder / POPULARITY, {"counts": now.shape})
        now.copy_(load_tensors(folder / POPULARITY)["counts"])
    return found


def item_points(scorer: NetworkScorer, domain: str) -> Tensor:
    """Return (M, D + 1): what `user_points` multiply with to the scores; the last number is recent popularity."""
    number = scorer.data.domains.index(domain)
    items = torch.from_numpy(scorer.data.domain_items[number]).to(scorer.device)
    recency = scorer.network.recency_popularity
    with torch.no_grad():
        keys = scorer.network.scaled(scorer.vectors[items])
        popularity = keys.new_zeros(len(items)) if recency is None else recency(items, number)[recency.now]
        return torch.cat([keys, popularity[:, None]], dim=1).cpu()


def user_points(scorer: NetworkScorer, domain: str) -> Iterator[tuple[Ints, Tensor]]:
    """Yield rows of the training set (B,) and (B, D + 1), each user as after the last action, part by part."""
    lengths, temperature = scorer.data.lengths, scorer.network.cfg.temperature
    for start in range(0, scorer.data.n_users, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, scorer.data.n_users))
        queries = scorer.queries(users, lengths[users], domain).cpu()
        yield users, torch.nn.functional.pad(queries, (0, 1), value=1.0) / temperature
