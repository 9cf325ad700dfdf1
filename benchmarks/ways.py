"""Ask a language model for items in each way there is, and say which pays: choices met a million tokens.

    python -m benchmarks.real_llm --out smollm2
    python -m benchmarks.ways --set llm.model=smollm2 --set llm.max_model_len=2048

The data is a thinned copy of food-kitchen, read from $EDT_DATA. Asked are --users who act in two domains, one of which
is hidden from the prompt; an answer counts where the user chose its item there. Beside the model stand as many items of
what costs no model, `candidates` drawn at random among them. Only training actions are read.
"""

import argparse
import random
from pathlib import Path
from typing import Any

from benchmarks.food_kitchen import food_kitchen, write_settings
from benchmarks.runs import run_until
from benchmarks.thin import write_thinned
from data_lake.lake import Lake
from flows.lift import BESIDE, lift
from flows.settings import load_settings
from pipeline.frames import frame_of

WAYS = {
    "write": ("enrich.ask=write",),
    "write, with examples": ("enrich.ask=write", "enrich.examples=3"),
    "choose": ("enrich.ask=choose",),
    "choose, with examples": ("enrich.ask=choose", "enrich.examples=3"),
    "score": ("enrich.ask=score",),
}
NOBODY = 'enrich.users=["nobody besides probes"]'


def hidden(lake: Lake) -> list[dict[str, Any]]:
    """Return the rows of `answer_lift` over all ranks that the hidden domains tell."""
    return [row for row in lift(lake) if row["truth"] == "hidden"]


def table(lake: Lake) -> list[str]:
    """Return a line per pair of domains and source of items."""
    by_pair: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for each in hidden(lake):
        by_pair.setdefault((each["from_domain"], each["to_domain"]), {})[each["source"]] = each
    lines = []
    for (source, target), by_source in by_pair.items():
        lines.append(f"  {source} to {target}")
        for name in ("answers", "kept", *BESIDE):
            if row := by_source.get(name):
                lines.append(
                    f"    {name:<14} {row['share']:8.3%} [{row['low']:.3%}, {row['high']:.3%}] of {row['answers']:>6,} "
                    f"to {row['users']:,} users; chance {row['chance']:.3%}; same cluster {row['in_cluster']:.1%}, "
                    f"by chance {row['in_cluster_by_chance']:.1%}"
                )
    return lines


def costs(lake: Lake) -> tuple[str, float]:
    """Return what was asked in a line, and thousands of tokens."""
    manifest = lake.manifest("generated_items")
    assert manifest is not None
    said = manifest.figures
    tokens = said["tokens_in"] + said["tokens_out"]
    asked, seconds = said.get("asked", 0), said.get("seconds_asking", 0.0)
    speed = f"{asked / seconds:.2f} requests/s" if asked and seconds > 1 else "from the lake's memory"
    return (
        f"{said['ok']:,} replies ok, failed {said['failed']}, {said['answers']:,} answers, dropped {said['dropped']}, "
        f"alike {said.get('alike', 0):.2f}; {tokens:,} tokens ({said['tokens_cached']:,} of them cached), {speed}"
    ), tokens / 1000


def hits(lake: Lake) -> float:
    """Return the answers that were chosen, less those that random items would have been."""
    answers = [row for row in hidden(lake) if row["source"] == "answers"]
    return float(sum((row["share"] - row["chance"]) * row["answers"] for row in answers))


def replies(lake: Lake, count: int) -> list[str]:
    """Return the titles shown and the answers of a few questions, drawn by a fixed seed."""
    titles = dict(frame_of(lake.read("items")).select("item_id", "title").iter_rows())
    known = {
        (user, domain): item_ids
        for user, domain, item_ids in frame_of(lake.read("representatives"))
        .select("user_id", "domain", "item_ids")
        .iter_rows()
    }
    rows = frame_of(lake.read("generated_items")).select("user_id", "from_domain", "answers", "reason").rows()
    lines = []
    for user, domain, answers, reason in random.Random(0).sample(rows, min(count, len(rows))):
        shown = [titles.get(item_id) for item_id in known[user, domain]]
        lines += [f"  {user}", f"    shown {shown}", f"    answer {answers or reason}"]
    return lines


def main() -> None:
    """Ask what is missing, then print a table per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--users", type=int, default=400, help="users of two domains, one of them hidden")
    parser.add_argument("--copy", type=int, default=0, metavar="SEED", help="the thinned copy")
    parser.add_argument("--share", type=float, default=0.95, help="of the users that are thinned")
    parser.add_argument("--generator", default="vllm", choices=["vllm", "openai"])
    parser.add_argument("--replies", type=int, default=0, help="to show of each way")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("ways"))
    given = parser.parse_args()

    folder = given.out / f"thinned-{given.share}-{given.copy}"
    write_thinned(food_kitchen(), folder, given.share, given.copy)
    config = write_settings(folder, data=folder)
    asked = (f"enrich.generator={given.generator}", f"enrich.probes={given.users}", NOBODY, "llm.max_useless=1",
             "llm.max_alike=1", "llm.max_failed=1")  # fmt: skip
    for way in given.ways:
        lake = run_until(load_settings(config, [*asked, *WAYS[way], *given.set]), "measure_answers")
        said, thousands = costs(lake)
        print(f"\n{way}: {said}")
        met = hits(lake)
        print(f"  {met:.1f} choices more than by chance, {1000 * met / thousands:.2f} a million tokens")
        for line in (*table(lake), *replies(lake, given.replies)):
            print(line)


if __name__ == "__main__":
    main()
