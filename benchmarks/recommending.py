"""Recommend to many users of a simulated world, and say how long the scores' products alone take.

    python -m benchmarks.recommending --users 20000 --items 50000

The network is not trained: that costs nothing here. Times are of this process, on the threads that torch takes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.growth import write_world
from model.config import RecommendConfig, TrainConfig
from model.data.sequences import Sequences
from model.data.training_set import TrainingSet
from model.evaluation.scoring import NetworkScorer
from model.network.network import build_network
from model.recommend import top_items


def main() -> None:
    """Print seconds and users a second, beside those of the products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=50_000, help="in both domains together")
    given = parser.parse_args()
    cfg, device = TrainConfig(), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_world(given.users, given.items, 384, Path(folder))
        data = TrainingSet.load(Path(folder))
    network = build_network(cfg.network, data, 0).eval()
    scorer = NetworkScorer(network, data, Sequences(data, cfg.network.max_length, device))
    start = time.perf_counter()
    found = top_items(data, scorer, RecommendConfig())
    seconds = time.perf_counter() - start
    products = time_of_products(scorer, data)
    print(
        f"{given.users:,} users, {data.n_items:,} items, {found.num_rows:,} rows: {seconds:.1f} s, "
        f"{given.users / seconds:,.0f} users a second; the products alone {products:.1f} s; "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


@torch.no_grad()
def time_of_products(scorer: NetworkScorer, data: TrainingSet) -> float:
    """Return the seconds that the products of all users' queries with all items take, in blocks of 512 users."""
    start = time.perf_counter()
    for columns in data.domain_items:
        keys, query = scorer.vectors[torch.from_numpy(columns)], torch.randn(512, scorer.vectors.shape[1])
        for _ in range(0, data.n_users, len(query)):
            query @ keys.T
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
