"""Make a thinned copy of food-kitchen: most users keep a single training action in one of their domains.

    python -m benchmarks.thin --out DIR

Validation and test (the last two actions of each user) stay as they are, so the copy measures what enrichment is
worth where a domain is hardly known. DIR gets interactions.parquet, items.parquet and thinned.parquet: the thinned
(user_id, domain). The data is read from $EDT_DATA/food-kitchen.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.food_kitchen import food_kitchen


def thin(interactions: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what is left of the actions, in their order, and the thinned (user_id, domain), one row per thinned user.

    A seeded `share` of the users is thinned, each in a seeded choice of one domain; which training action of that
    domain stays is drawn, too.
    """
    rng = np.random.default_rng(seed)
    users = interactions["user_id"].unique().sort()
    domains = interactions["domain"].unique().sort()
    drawn = np.sort(rng.permutation(len(users))[: round(share * len(users))])
    thinned = pl.DataFrame({"user_id": users[drawn], "domain": domains[rng.integers(len(domains), size=len(drawn))]})

    rows = interactions.with_row_index("row").with_columns(pl.Series("lot", rng.random(len(interactions))))
    training = pl.col("position").rank("ordinal", descending=True).over("user_id") > 2
    candidates = rows.filter(training).join(thinned, on=["user_id", "domain"], how="semi")
    stays = pl.col("lot") == pl.col("lot").min().over("user_id")
    left = rows.join(candidates.filter(~stays), on="row", how="anti").sort("row")
    return left.drop("row", "lot"), thinned


def write_thinned(data: Path, out: Path, share: float, seed: int) -> None:
    """Write a thinned copy of the data in a folder, where it is not there yet."""
    if (out / "items.parquet").exists():
        return
    interactions = pl.read_parquet(data / "interactions.parquet")
    left, thinned = thin(interactions, share, seed)
    out.mkdir(parents=True, exist_ok=True)
    left.write_parquet(out / "interactions.parquet")
    thinned.write_parquet(out / "thinned.parquet")
    shutil.copyfile(data / "items.parquet", out / "items.parquet")
    print(f"{len(thinned)} of {interactions['user_id'].n_unique()} users thinned")
    print(f"{len(left)} of {len(interactions)} actions left in {out}")


def main() -> None:
    """Write the thinned copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.7, help="share of the users to thin")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_thinned(food_kitchen(), given.out, given.share, given.seed)


if __name__ == "__main__":
    main()
