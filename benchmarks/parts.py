"""Seconds and memory of a run's stages up to the trainer's data as it grows: users are dealt into parts.

    python -m benchmarks.parts                                 # 1, 5 and 20 million actions
    python -m benchmarks.parts --actions 1 10 100 --items 1000000 --out /data/parts
    python -m benchmarks.parts --enrich --actions 1 5          # the enriching stages, too, with `retrieval`

Each size is written once as Parquet files (a log in the order of time, --per-user actions a user, some items far more
often than others), then handled by a process of its own. Random vectors stand for those of texts, the same for the same
text; the nearest of more than 100,000 items are found by an index. Memory is the sum of the proportional set sizes of
the process and its children, sampled. Beside it, in another process, what polars does alone: scan, sort by user and
time, group by user, write. Actions a second are told of ingest, split and assemble together.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil  # type: ignore[import-untyped]

from data_lake.keyed_cache import KeyedCache
from flows.models import Models
from flows.settings import load_settings
from flows.stages import open_lake, stages

ROWS_PER_FILE = 5_000_000
VECTOR = 384
STAGES = ("ingest", "split", "assemble")


def write_log(folder: Path, actions: int, users: int, items: int) -> None:
    """Write interactions and items of two domains as Parquet."""
    if (folder / "items.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for start in range(0, actions, ROWS_PER_FILE):
        rows = min(ROWS_PER_FILE, actions - start)
        popular = (items * rng.random(rows) ** 3).astype(np.int64)
        pl.DataFrame({
            "user_id": pl.Series(rng.integers(users, size=rows)).cast(pl.String).str.zfill(9),
            "item_id": pl.Series(popular).cast(pl.String).str.zfill(8),
            "timestamp": 1_500_000_000 + (start + np.arange(rows)) // 4,
            "rating": rng.integers(1, 6, rows).astype(np.float32),
        }).write_parquet(folder / f"interactions-{start // ROWS_PER_FILE:03d}.parquet")  # fmt: skip
    numbers = pl.Series(np.arange(items))
    pl.DataFrame({
        "item_id": numbers.cast(pl.String).str.zfill(8),
        "domain": pl.Series(np.array(["food", "kitchen"])[np.arange(items) % 2]),
        "title": "item number " + numbers.cast(pl.String),
    }).write_parquet(folder / "items.parquet")  # fmt: skip


class RandomVectors:
    """Stands for the text encoder: a vector of length one by the hash of the text."""

    model, revision = "random", "0"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32."""
        vectors = np.empty((len(texts), VECTOR), np.float32)
        for row, text in enumerate(texts):
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            vectors[row] = np.random.Generator(np.random.SFC64(seed)).standard_normal(VECTOR, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def counts(self) -> dict[str, Any]:
        """Count nothing."""
        return {}


class RandomModels(Models):
    """Models whose encoder is random, and holds no vectors for later."""

    def encoder_with_cache(self, cache: KeyedCache) -> Any:
        """Return random vectors."""
        return RandomVectors()


def ours(folder: Path, actions_per_part: int, with_enrichment: bool) -> dict[str, dict[str, float]]:
    """Make the training set; return seconds and MiB per stage."""
    files = json.dumps([str(path) for path in sorted(folder.glob("interactions-*.parquet"))])
    generator = "retrieval" if with_enrichment else "none"
    (folder / "edt.toml").write_text(
        f'dataset = "parts-{generator}"\n[data]\ninteractions = {files}\nitems = "items.parquet"\n'
        f'[enrich]\ngenerator = "{generator}"\nexact_up_to = 100_000\n'
        f'[lake]\nroot = "store"\nactions_per_part = {actions_per_part}\n'
    )
    settings = load_settings(folder / "edt.toml", [])
    found, lake = {}, open_lake(settings)
    with RandomModels(settings) as models:
        for stage in stages(settings, models):
            found[stage.name] = measured(partial(lake.run, stage, rebuild=True))
            if stage.name == "assemble":
                break
    return found


def plain(folder: Path, actions_per_part: int, with_enrichment: bool) -> dict[str, dict[str, float]]:
    """Group the actions by user with polars alone."""

    def work() -> None:
        log = pl.scan_parquet(folder / "interactions-*.parquet").sort("user_id", "timestamp")
        users = log.group_by("user_id", maintain_order=True).agg("item_id", "timestamp", "rating")
        users.sink_parquet(folder / "plain.parquet", compression="zstd")

    return {"polars": measured(work)}


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Run `work`; return its seconds and the most MiB that this process and its children held."""
    most, is_over = 0.0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not is_over.wait(0.1):
            most = max(most, proportional_mib())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.monotonic()
    try:
        work()
    finally:
        seconds = time.monotonic() - start
        is_over.set()
        sampler.join()
    return {"seconds": round(seconds, 1), "MiB": round(most)}


def proportional_mib() -> float:
    """Return the proportional set sizes of this process and its children together."""
    total, me = 0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20


def main() -> None:
    """Print a line per size and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=float, nargs="+", default=[1, 5, 20], metavar="MILLIONS")
    parser.add_argument("--per-user", type=int, default=20)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--actions-per-part", type=int, default=2_000_000)
    parser.add_argument("--enrich", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("parts"))
    parser.add_argument("--way", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    for millions in given.actions:
        actions = int(millions * 1e6)
        folder = given.out / f"{actions}-{given.items}"
        if given.way:
            found = {"ours": ours, "plain": plain}[given.way](folder, given.actions_per_part, given.enrich)
            seconds = sum(found[name]["seconds"] for name in (STAGES if given.way == "ours" else found))
            rate = f"{actions / seconds / 1e6:.2f} million actions a second"
            print(f"{millions:g} million actions, {given.way}: {json.dumps(found)}; {rate}", flush=True)
            continue
        write_log(folder, actions, max(actions // given.per_user, 1), given.items)
        for way in ("ours", "plain"):
            size = ["--actions", str(millions), "--items", str(given.items), "--out", str(given.out), "--way", way]
            size += ["--enrich"] * given.enrich
            subprocess.run(
                [sys.executable, "-m", "benchmarks.parts", *size, "--actions-per-part", str(given.actions_per_part)],
                check=True,
            )


if __name__ == "__main__":
    main()
