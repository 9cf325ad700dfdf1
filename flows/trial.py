"""Would it pay on my data? A few users who act in two domains, one of them hidden, trained on with and without."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_lake.errors import UserError
from data_lake.lake import Lake
from data_lake.schemas import TEST
from flows.lift import lift_lines
from flows.run import RunRequest, make_until
from flows.settings import GateConfig, LakeConfig, Settings, load_settings
from flows.stages import ASKING, open_lake
from flows.summary import stage_line
from flows.text import log
from model.evaluation.compare import Difference, paired
from pipeline.config import ColumnsConfig, DataConfig, DescribeConfig, SplitConfig
from pipeline.llm.backends import NONE
from pipeline.trial import make_trial

WORTH = 0.01
"""Gain, relative to the value without, below which nobody would pay."""
METRICS = ("HR@10", "NDCG@10")
MORE = "more"
"""Column of the trial's items: what is embedded after the title."""


@dataclass(frozen=True)
class Outcome:
    """What a trial found. `costs` are for everybody: prompts, tokens and hours; empty where no model is asked."""

    users: int
    seeds: int
    verdict: str
    lift: list[str]
    differences: list[Difference]
    costs: dict[str, Any]
    seconds: float


def trial(request: RunRequest, users: int, seeds: int) -> Outcome:
    """Run a trial in the folder `trial` beside the settings file, and write its result.json.

    The dataset's own lake is brought up to the stage `split`; all else lies in the trial's.
    Raises UserError where no generator is set, or where not so many users act in two domains.
    """
    started, folder = time.monotonic(), request.config.resolve().parent / "trial"
    settings = load_settings(request.config, request.overrides)
    if not settings.enrich.is_on:
        raise UserError('[enrich] generator is "none": a trial compares a generator with none. Name one.')
    lake = _make(settings, "split")
    sequences, items = lake.read("sequences"), lake.read("items")
    made = make_trial(sequences, users, settings.seed)
    with_ = _settings(settings, made.interactions, items, folder, tuple(sorted(made.hidden)))
    without = with_.model_copy(update={"enrich": with_.enrich.model_copy(update={"generator": NONE})})
    ranks = {name: _ranks(each, range(seeds)) for name, each in (("with", with_), ("without", without))}
    lake = open_lake(with_)
    protocol = with_.evaluate.protocols[-1]
    found = paired(ranks["with"], ranks["without"], split=TEST, protocol=protocol, users=list(made.hidden))
    differences = [found[metric] for metric in METRICS]
    kept = sum(lake.read("grounded_items")["kept"].to_pylist())
    outcome = Outcome(
        users, seeds, verdict(differences[0], kept), lift_lines(lake), differences, _costs(lake, with_),
        time.monotonic() - started,
    )  # fmt: skip
    (folder / "result.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n", encoding="utf-8")
    return outcome


def verdict(it: Difference, kept: int) -> str:
    """Say whether a gain pays: "yes", "no", or that the trial was too small, with the users that it would take.

    `kept` is the number of answers that beat chance and are inserted.
    """
    if not kept:
        return "no: no kind of its answers was sure to beat chance, so none would be inserted"
    if it.low > 0:
        return "yes"
    least = WORTH * it.b
    if it.high < least:
        return "no"
    half = (it.high - it.low) / 2
    needed = math.ceil(it.users * (half / max(abs(it.difference), least)) ** 2) if it.b else 10 * it.users
    return f"{it.users} users are too few to tell; about {max(needed, 2 * it.users):,} would do"


def told(outcome: Outcome) -> str:
    """Return what a person reads."""
    lines = [f"Trial of {outcome.users:,} users, {outcome.seeds} training seeds, {outcome.seconds / 60:.0f} min.", ""]
    lines += outcome.lift or ["No answer could be held against a choice."]
    for it in outcome.differences:
        low, mean, high = (each / it.b if it.b else 0.0 for each in (it.low, it.difference, it.high))
        lines.append(
            f"{it.metric} in the hidden domain: {it.b:.4f} without, {it.a:.4f} with, {mean:+.1%} "
            f"[{low:+.1%}, {high:+.1%}]"
        )
    costs = outcome.costs
    if costs:
        lines.append(
            f"For everybody: about {costs['prompts']:,} prompts, {costs['tokens']:,} tokens, {costs['hours']:.1f} h."
        )
    else:
        lines.append("No language model is asked.")
    return "\n".join([*lines, "", f"Does it pay? {outcome.verdict.capitalize()}."])


def _settings(
    settings: Settings, interactions: pa.Table, items: pa.Table, folder: Path, users: tuple[str, ...]
) -> Settings:
    """Write the trial's files, and return settings for it: those of the dataset, but for data, split and lake."""
    folder.mkdir(exist_ok=True)
    files = {"interactions": folder / "interactions.parquet", "items": folder / "items.parquet"}
    pq.write_table(interactions, files["interactions"])
    titles, texts = ([each or "" for each in items[name].to_pylist()] for name in ("title", "text"))
    more = pa.array([text.removeprefix(title).strip() for title, text in zip(titles, texts, strict=True)])
    pq.write_table(items.select(["item_id", "domain", "title"]).append_column(MORE, more), files["items"])
    data = DataConfig(
        **{name: (str(file),) for name, file in files.items()},
        columns=ColumnsConfig(text=(MORE,)),
        times=settings.data.times,
    )
    changed = {
        "data": data,
        "split": SplitConfig(),
        "lake": LakeConfig(root=str(folder / "lake")),
        "enrich": settings.enrich.model_copy(update={"users": users}),
        "gate": GateConfig(),  # every training counts
        "describe": DescribeConfig(),  # it would ask about the whole catalogue
    }
    return settings.model_copy(update=changed)


def _ranks(settings: Settings, seeds: Sequence[int]) -> list[pa.Table]:
    ranks = []
    for seed in seeds:
        train = settings.train.model_copy(update={"seed": seed})
        log(f'trial: generator "{settings.enrich.generator}", training seed {seed}')
        ranks.append(_make(settings.model_copy(update={"train": train}), "evaluate").read("ranks"))
    return ranks


def _make(settings: Settings, last: str) -> Lake:
    """Make what is missing up to a stage, with a line about each that was made; return the lake."""
    return make_until(settings, last, lambda made: None if made.skipped else log(stage_line(made)))


def _costs(lake: Lake, settings: Settings) -> dict[str, Any]:
    """Return prompts, tokens and hours for everybody by what the trial's users took; empty where nobody was asked."""
    everybody = {
        "generated_items": _questions(lake, settings),
        "domain_profiles": lake.read("sequences").num_rows * len(set(lake.read("items")["domain"].to_pylist())),
        "user_profiles": lake.read("sequences").num_rows,
    }
    prompts = tokens = hours = 0.0
    for artifact in ASKING.values():
        manifest = lake.manifest(artifact)
        if manifest is None or not manifest.figures.get("tokens_in"):
            continue
        share = everybody[artifact] / manifest.outputs[artifact].rows
        prompts += everybody[artifact]
        tokens += share * (manifest.figures["tokens_in"] + manifest.figures["tokens_out"])
        hours += share * manifest.figures.get("seconds_asking", 0.0) / 3600
    return {"prompts": round(prompts), "tokens": round(tokens), "hours": hours} if tokens else {}


def _questions(lake: Lake, settings: Settings) -> int:
    """Return how many questions about items a run for everybody would ask."""
    from pipeline.augment.generate_items import generation_rows, pairs_of

    domains = sorted(set(lake.read("items")["domain"].to_pylist()))
    return generation_rows(lake.read("representatives"), pairs_of(settings.enrich, domains), domains).num_rows
