"""What the stage generate_items costs beside vLLM alone and a loop over transformers, on the same prompts.

    python -m benchmarks.generation_speed                                  # edt-tiny, 1,000 prompts
    python -m benchmarks.generation_speed --model FOLDER --prompts 200 --transformers 0

One engine after the other, started and warmed before the clock runs: the stage (prompts, hashes, engine, validation,
cache of replies, Parquet), then `vllm.LLM.chat` given exactly the requests that the stage asked, then transformers'
`generate` on the first of them. Prints seconds, requests and tokens.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.generation_world import (
    DATASET,
    describe_machine,
    llm_settings,
    make_settings,
    run_generate_items,
    write_users,
)
from data_lake.lake import Lake
from flows.settings import Settings
from pipeline.config import LLMConfig
from pipeline.llm.generator import ItemsQuestion, OnReply, Reply, Request, no_listener
from pipeline.llm.vllm import VLLM

WARM_UP = Request(
    ItemsQuestion("", "food", "kitchen", (), (), 1), ({"role": "user", "content": "tea"},), {"type": "object"}, 4
)
BATCH = 8
"""Of transformers."""


class RecordingVLLM(VLLM):
    """The generator `vllm`, which keeps what it was asked and what it replied."""

    def __init__(self, cfg: LLMConfig) -> None:
        super().__init__(cfg)
        self.requests, self.replies = list[Request](), list[Reply]()

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        replies = super().__call__(requests, on_reply)
        self.requests += requests
        self.replies += replies
        return replies


@dataclass(frozen=True)
class StageFigures:
    """What the stage asked, and what it took."""

    requests: list[Request]
    replies: list[Reply]
    seconds: float
    usable: int
    """Rows with usable answers."""
    seconds_asking: float

    def total(self, name: str) -> int:
        """Return the sum of a figure over the replies: "tokens_in", "tokens_out" or "tokens_cached"."""
        return sum(getattr(reply, name) for reply in self.replies)


def run_stage(folder: Path, settings: Settings, prompts: int) -> StageFigures:
    """Run generate_items with a warm engine."""
    lake, vllm = Lake(folder, DATASET), RecordingVLLM(settings.llm)
    write_users(lake, prompts)
    vllm([WARM_UP])
    vllm.tokens.count([WARM_UP])
    vllm.requests.clear()
    vllm.replies.clear()
    made = run_generate_items(lake, settings, vllm)
    return StageFigures(
        vllm.requests, vllm.replies, made.seconds, made.figures["ok"], made.figures["seconds_asking"]
    )  # fmt: skip


def run_peer(module: str, job: Path, requests: Sequence[Request], llm: LLMConfig) -> dict[str, Any]:
    """Let a peer answer requests in a process of its own; return the JSON that it printed last."""
    asked = [
        {"messages": request.messages, "schema": request.schema, "max_tokens": request.max_tokens}
        for request in requests
    ]  # fmt: skip
    given = {"llm": llm.model_dump(mode="json"), "batch": BATCH, "requests": asked}
    job.write_text(json.dumps(given), encoding="utf-8")
    command = [sys.executable, "-m", module, str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show_stage(ours: StageFigures, prompts: int) -> None:
    """Print what the stage took."""
    asked, tokens_in, cached = len(ours.requests), ours.total("tokens_in"), ours.total("tokens_cached")
    tokens_out = ours.total("tokens_out")
    print(
        f"our stage      {ours.seconds:8.2f} s  {asked} requests ({asked / ours.seconds:.1f}/s), {prompts} users, "
        f"{ours.usable} usable; {ours.seconds_asking:.2f} s of it in the engine\n"
        f"               {tokens_in} tokens in, {cached} of them ({cached / tokens_in:.1%}) from the prefix cache, "
        f"{tokens_out} out ({tokens_out / ours.seconds:.0f}/s)",
        flush=True,
    )


def show_vllm(ours: StageFigures, alone: dict[str, Any]) -> None:
    """Print what vLLM alone took, and the stage beside it."""
    print(
        f"LLM.chat alone {alone['seconds']:8.2f} s  the same requests in one call, {alone['tokens_out']} tokens out, "
        f"{alone['tokens_cached']} cached\n"
        f"               ours takes {ours.seconds / alone['seconds']:.3f} times as long (aim: at most 1.05)",
        flush=True,
    )


def show_transformers(ours: StageFigures, plain: dict[str, Any], answered: int) -> None:
    """Print what transformers took for the first requests, and the stage beside it."""
    requests = len(ours.requests) / ours.seconds / (answered / plain["seconds"])
    tokens = ours.total("tokens_out") / ours.seconds / (plain["tokens_out"] / plain["seconds"])
    print(
        f"transformers   {plain['seconds']:8.2f} s  the first {answered} at batch {BATCH}, {plain['tokens_out']} "
        f"tokens out, no schema\n"
        f"               ours answers {requests:.1f} times as many requests a second (aim: at least 5), and "
        f"makes {tokens:.1f} times as many tokens"
    )


def main() -> None:
    """Print two lines per engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edt-tiny", help="edt-tiny, or the folder of a model")
    parser.add_argument("--prompts", type=int, default=1000, help="users asked for")
    parser.add_argument("--transformers", type=int, default=64, help="requests that transformers answers; 0: none")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--answers", type=int, default=3)
    given = parser.parse_args()
    settings = make_settings(
        enrich={"generator": "vllm", "max_tokens": given.max_tokens, "answers": given.answers},
        llm=llm_settings(given.model),
    )
    print(describe_machine(given.model), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch) / "job.json"
        ours = run_stage(Path(scratch) / "lake", settings, given.prompts)
        show_stage(ours, given.prompts)
        show_vllm(ours, run_peer("benchmarks.generation_vllm", job, ours.requests, settings.llm))
        if given.transformers:
            first = ours.requests[: given.transformers]
            plain = run_peer("benchmarks.generation_transformers", job, first, settings.llm)
            show_transformers(ours, plain, len(first))


if __name__ == "__main__":
    main()
