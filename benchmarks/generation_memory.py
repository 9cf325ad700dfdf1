"""How memory grows while many prompts stream through the stage generate_items, asked of nobody.

    python -m benchmarks.generation_memory                # a million prompts
    python -m benchmarks.generation_memory --prompts 10000

A generator that answers at once stands for the language model. Memory is that of the process that runs the stage.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.generation_world import DATASET, make_settings, run_generate_items, write_users
from benchmarks.memory import peak_mib, resident_mib
from data_lake.lake import Lake
from pipeline.config import LLMConfig
from pipeline.llm.generator import OnReply, Reply, Request, no_listener
from pipeline.llm.language_model import LanguageModel
from pipeline.llm.tokens import BY_CHARACTERS

MARKS = 10
"""How often memory is noted on the way."""


class InstantModel(LanguageModel):
    """A `Generator` that answers at once, and notes the memory of its process after every `interval` requests."""

    identity: Mapping[str, Any] = {"model": "instant"}
    tokens = BY_CHARACTERS

    def __init__(self, interval: int) -> None:
        super().__init__(LLMConfig())
        self.interval, self.asked = interval, 0
        self.marks: list[float] = []

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return ten answers to each request, of a usual length and unlike those to any other."""
        first, self.asked = self.asked, self.asked + len(requests)
        if self.asked // self.interval > len(self.marks):
            self.marks.append(resident_mib())
        return [Reply(answers(first + index), tokens_in=400, tokens_out=120) for index in range(len(requests))]

    def close(self, patience: float = 15.0) -> None:
        """Hold nothing."""


def answers(number: int) -> str:
    """Return a reply with ten items."""
    return json.dumps({"items": [f"an answer of a usual length, number {10 * number + each}" for each in range(10)]})


@dataclass(frozen=True)
class Figures:
    """Memory in MiB: at the start, at most, and at each mark; and what was done."""

    start: float
    peak: float
    marks: list[float]
    seconds: float
    rows: int


def stream(folder: Path, prompts: int) -> Figures:
    """Run the stage over the users of a lake; the process must be new, since its peak of memory is measured."""
    start, instant = resident_mib(), InstantModel(max(1, prompts // MARKS))
    settings = make_settings(enrich={"generator": "openai"})
    made = run_generate_items(Lake(folder, DATASET), settings, instant)
    return Figures(start, peak_mib(), instant.marks, made.seconds, made.outputs["generated_items"].rows)


def main() -> None:
    """Print speed, the peak of memory, and memory on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(1, get_context("spawn")) as process:
        write_users(Lake(scratch, DATASET), given.prompts)
        found = process.submit(stream, Path(scratch), given.prompts).result()
    marks = ", ".join(f"{mib - found.start:+.0f}" for mib in found.marks)
    print(
        f"{found.rows} prompts in {found.seconds:.2f} s, {found.rows / found.seconds:.0f}/s; "
        f"peak {found.peak - found.start:.0f} MiB above the start's {found.start:.0f} (aim: under 1,024)\n"
        f"MiB above the start at each tenth: {marks}"
    )


if __name__ == "__main__":
    main()
