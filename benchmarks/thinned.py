"""Compare two runs on the targets that lie in a user's thinned domain, where enrichment has something to add.

python -m benchmarks.thin --out thin              # then `edt run` on it twice, keeping `edt path ranks` of each
python -m benchmarks.thinned --thin thin --without RANKS_A --with RANKS_B
"""

import argparse
from pathlib import Path

import polars as pl
import pyarrow as pa

from model.evaluation.compare import paired


def of_thinned(ranks: Path, thinned: pl.DataFrame) -> pa.Table:
    """Return the rows of a `ranks` artifact whose target lies in the domain that was thinned for its user."""
    rows = pl.read_parquet(ranks / "*.parquet")
    return rows.join(thinned, on=["user_id", "domain"], how="semi", maintain_order="left").to_arrow()


def main() -> None:
    """Print a line per phase, protocol and metric: both values, their difference, its 95 % interval and p-value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thin", type=Path, required=True, help="what benchmarks.thin wrote")
    parser.add_argument("--without", type=Path, required=True, help="ranks of the run without enrichment")
    parser.add_argument("--with", dest="with_", type=Path, required=True, help="ranks of the run with it")
    given = parser.parse_args()
    thinned = pl.read_parquet(given.thin / "thinned.parquet")
    without, with_ = of_thinned(given.without, thinned), of_thinned(given.with_, thinned)
    for phase in ("pretrain", "finetune"):
        for protocol in ("full", "sampled-100", "sampled-999"):
            found = paired([with_], [without], split="test", protocol=protocol, phases=(phase, phase))
            for metric in ("HR@10", "NDCG@10"):
                it = found[metric]
                print(
                    f"{phase:<9} {protocol:<12} {metric:<8} with {it.a:.4f}  without {it.b:.4f}  difference "
                    f"{it.difference:+.4f} [{it.low:+.4f}, {it.high:+.4f}]  p = {it.p:.3f}  ({it.users} users)"
                )


if __name__ == "__main__":
    main()
