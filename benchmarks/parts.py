"""Seconds and memory of ingest, split and assemble as the data grows: users are dealt into parts, so memory stays flat.

    python -m benchmarks.parts                                 # 1, 5 and 20 million actions
    python -m benchmarks.parts --actions 1 10 100 --items 1000000 --out /data/parts

Each size is written once as Parquet files (a log in the order of time, --per-user actions a user, some items far more
often than others), then handled by a process of its own. Random vectors stand for those of the item texts. Memory is
the sum of the proportional set sizes of the process and its children, sampled. Beside it, in another process, what
polars does alone: scan, sort by user and time, group by user, write.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import psutil  # type: ignore[import-untyped]
import pyarrow as pa

from data_lake.schemas import ITEM_EMBEDDINGS
from flows.models import Models
from flows.settings import load_settings
from flows.stage_spec import StageRun
from flows.stages import SPECS, open_lake, stages

ROWS_PER_FILE = 5_000_000
VECTOR = 384
STAGES = ("ingest", "split", "embed_items", "assemble")


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


def random_vectors(run: StageRun) -> None:
    """Write a random vector per item in the place of embed_items."""
    items, rng = run.io.read("items"), np.random.default_rng(0)
    vectors = rng.standard_normal((items.num_rows, VECTOR), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kind = ITEM_EMBEDDINGS.tables[""]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), VECTOR)
    name = pa.repeat("random", items.num_rows)
    table = [items["item_id"], items["domain"], column, name, name]
    run.io.write("item_embeddings", pa.table(table, names=kind.names))


def ours(folder: Path, actions_per_part: int) -> dict[str, dict[str, float]]:
    """Make the training set without enrichment; return seconds and MiB per stage."""
    files = json.dumps([str(path) for path in sorted(folder.glob("interactions-*.parquet"))])
    (folder / "edt.toml").write_text(
        f'dataset = "parts"\n[data]\ninteractions = {files}\nitems = "items.parquet"\n[enrich]\ngenerator = "none"\n'
        f'[lake]\nroot = "store"\nactions_per_part = {actions_per_part}\n'
    )
    settings = load_settings(folder / "edt.toml", [])
    specs = [replace(spec, work=random_vectors) if spec.name == "embed_items" else spec for spec in SPECS]
    found, lake = {}, open_lake(settings)
    with Models(settings) as models:
        for stage in stages(settings, models, specs):
            if stage.name in STAGES:
                found[stage.name] = measured(partial(lake.run, stage, rebuild=True))
    return found


def plain(folder: Path, actions_per_part: int) -> dict[str, dict[str, float]]:
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
    parser.add_argument("--out", type=Path, default=Path("parts"))
    parser.add_argument("--way", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    for millions in given.actions:
        actions = int(millions * 1e6)
        folder = given.out / f"{actions}-{given.items}"
        if given.way:
            found = {"ours": ours, "plain": plain}[given.way](folder, given.actions_per_part)
            seconds = sum(found[name]["seconds"] for name in found if name != "embed_items")
            rate = f"{actions / seconds / 1e6:.2f} million actions a second"
            print(f"{millions:g} million actions, {given.way}: {json.dumps(found)}; {rate}", flush=True)
            continue
        write_log(folder, actions, max(actions // given.per_user, 1), given.items)
        for way in ("ours", "plain"):
            size = ["--actions", str(millions), "--items", str(given.items), "--out", str(given.out), "--way", way]
            subprocess.run(
                [sys.executable, "-m", "benchmarks.parts", *size, "--actions-per-part", str(given.actions_per_part)],
                check=True,
            )


if __name__ == "__main__":
    main()
