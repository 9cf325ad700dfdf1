"""`python -m tests.fuzz [INPUTS]`: damaged inputs and bombs for all targets, and a table of what came of them."""

import argparse
import faulthandler
import sys
import time
from functools import partial

import torch

from tests.fuzz.bombs import GIGABYTE, bombs
from tests.fuzz.runner import Outcome, feed, limit_memory, run, scratch, table
from tests.fuzz.targets import targets


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("inputs", type=int, nargs="?", default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="TARGET", help="feed all inputs to this target, and no bomb")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--bomb-bytes", type=int, default=GIGABYTE, help="of a bomb that is one long piece")
    args = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    every = [target for target in targets() if args.only in (None, target.name)]
    limit_memory()
    outcomes = []
    for target in every:
        started = time.monotonic()
        count = args.inputs if args.only else max(1, args.inputs * target.share // 1000)
        outcomes.append(run(target, count, args.seed, args.first))
        print(f"{target.name}: {count:,} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        show_faults(outcomes[-1])
    if not args.only:
        outcomes.append(_bombs(args.bomb_bytes))
        show_faults(outcomes[-1])
    print(f"\n{table(outcomes)}")
    return int(any(outcome.faults for outcome in outcomes))


def show_faults(outcome: Outcome) -> None:
    for what, count in outcome.faults.most_common():
        print(f"\n{outcome.name}: {count} x {what}, {outcome.examples[what]}", flush=True)


def _bombs(size: int) -> Outcome:
    outcome = Outcome("bombs")
    for bomb in bombs(size):
        with scratch() as folder:
            made = bomb.make(folder)
            started = time.process_time()
            feed(outcome, bomb.name, partial(bomb.read, made))
            print(f"bomb {bomb.name}: {time.process_time() - started:.1f} s", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
