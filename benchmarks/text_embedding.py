"""Encode real item texts and profiles in float32 and as `[embed] precision` chooses here: how fast, how alike.

    python -m benchmarks.text_embedding

The items are those of food-kitchen, read from $EDT_DATA; a profile is a list of 40 titles, as `retrieval` writes them.
"""

import argparse
import random
import time

import numpy as np
import polars as pl
import torch

from benchmarks.food_kitchen import food_kitchen
from model.device import cores
from pipeline.config import EmbedConfig
from pipeline.vectors.embedding import SentenceEmbedder, fastest_precision

TITLES = 40


def main() -> None:
    """Print a line per kind of text and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--profiles", type=int, default=1000)
    given = parser.parse_args()
    titles = pl.read_parquet(food_kitchen() / "items.parquet")["title"].drop_nulls().to_list()
    draw = random.Random(0)
    items = draw.sample(titles, given.items)
    profiles = ["Likes: " + "; ".join(draw.sample(titles, TITLES)) for _ in range(given.profiles)]
    embedders = {name: SentenceEmbedder(EmbedConfig(precision=name)) for name in ("float32", "auto")}
    print(f"{cores()} CPU cores, torch {torch.__version__}; `auto` is {fastest_precision('auto')}")
    for kind, texts in (("items", items), ("profiles", profiles)):
        vectors, rates = {}, {}
        for name, embed in embedders.items():
            embed(texts[:64])  # loads the model
            start = time.perf_counter()
            vectors[name] = embed(texts)
            rates[name] = len(texts) / (time.perf_counter() - start)
        exact, fast = vectors["float32"], vectors["auto"]
        alike = (exact * fast).sum(1)
        same = np.mean(nearest(exact) == nearest(fast))
        print(
            f"{len(texts):,} {kind}: float32 {rates['float32']:.0f} a second, auto {rates['auto']:.0f} "
            f"(x {rates['auto'] / rates['float32']:.2f}); cosine at least {alike.min():.5f}, mean {alike.mean():.6f}; "
            f"the same nearest neighbour for {same:.1%}"
        )


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Return the row that is nearest to each row of (n, d) unit vectors, but for itself."""
    like = vectors @ vectors.T
    np.fill_diagonal(like, -1.0)
    found: np.ndarray = like.argmax(1)
    return found


if __name__ == "__main__":
    main()
