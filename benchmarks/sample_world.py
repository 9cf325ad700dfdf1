"""Measure on sample worlds how many inserted items are of a taste of their user, before and after the noise filter.

    python -m benchmarks.sample_world --seeds 0 1 2 3 4
    python -m benchmarks.sample_world --seeds 0 --users 200 --generators edt-tiny

A world is simulated again to learn its truth, which no stage reads. Chance is an item of the domain drawn at random.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from benchmarks.runs import run_until
from flows.sample import write_sample
from flows.settings import Settings, load_settings
from pipeline.sample_world.edt_tiny import POSITIONS
from pipeline.sample_world.simulate import SimulateConfig, World, simulate

GENERATORS = {
    "retrieval": ("enrich.generator=retrieval",),
    "edt-tiny": ("enrich.generator=vllm", "llm.model=edt-tiny", f"llm.max_model_len={POSITIONS}"),
}


def judged(grounded: pl.DataFrame, world: World) -> pl.DataFrame:
    """Return the rows of `grounded_items` that have an item, with `fits`: its taste is one of the user's."""
    users = pl.DataFrame(world.user_truth).select("user_id", "tastes")
    items = pl.DataFrame(world.item_truth).select("item_id", "taste")
    found = grounded.filter(pl.col("item_id").is_not_null())
    found = found.join(users, on="user_id", maintain_order="left").join(items, on="item_id", maintain_order="left")
    return found.with_columns(fits=pl.col("taste").is_in(pl.col("tastes")))


def share(fits: pl.Series) -> float:
    """Return the share of the rows that fit; 0 of none."""
    return float(fits.sum()) / max(len(fits), 1)


def by_chance(world: World, user_ids: Iterable[str]) -> float:
    """Return the share of all items that are of a taste of their user, over these users."""
    users = pl.DataFrame(world.user_truth).filter(pl.col("user_id").is_in(list(user_ids)))
    shares = pl.DataFrame(world.item_truth)["taste"].value_counts(normalize=True)
    per_taste = dict(zip(shares["taste"], shares["proportion"], strict=True))
    return sum(per_taste[taste] for tastes in users["tastes"] for taste in tastes) / max(len(users), 1)


def world_file(out: Path, cfg: SimulateConfig) -> Path:
    """Return the settings file of a world, which is written under `out` where it is not there yet."""
    folder = out / f"{cfg.users}-{cfg.items}-{cfg.seed}"
    config = folder / "edt.toml"
    if not config.exists():
        write_sample(folder / "raw", config, [f"users={cfg.users}", f"items={cfg.items}", f"seed={cfg.seed}"])
    return config


def world_settings(out: Path, cfg: SimulateConfig, overrides: Sequence[str]) -> Settings:
    """Return settings for a world, which is written under `out` where it is not there yet."""
    return load_settings(world_file(out, cfg), overrides)


def main() -> None:
    """Print a line per world and generator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--generators", nargs="+", choices=list(GENERATORS), default=list(GENERATORS))
    parser.add_argument("--out", type=Path, default=Path("sample-worlds"))
    given = parser.parse_args()
    print(f"{'seed':>4} {'generator':<10} {'grounded':>8} {'fit':>6} {'kept':>7} {'fit':>6} {'chance':>7}")
    for seed in given.seeds:
        cfg = SimulateConfig(users=given.users, items=given.items, seed=seed)
        world = simulate(cfg)
        for name in given.generators:
            lake = run_until(world_settings(given.out, cfg, GENERATORS[name]), "ground")
            table = judged(pl.DataFrame(lake.read("grounded_items")), world)
            kept = table.filter("kept")
            print(
                f"{seed:>4} {name:<10} {len(table):>8,} {share(table['fits']):>6.3f} {len(kept):>7,} "
                f"{share(kept['fits']):>6.3f} {by_chance(world, table['user_id'].unique()):>7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
