"""What the language model would be asked by the stages that are to run: prompts, tokens, hours. Nothing is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_lake.keyed_cache import KeyedCache
from data_lake.lake import Lake
from data_lake.manifest import Manifest
from flows.dry_run import dry_run
from flows.plan import Step
from flows.run import Run
from flows.stage_spec import StageSpec
from flows.stages import SPECS, STAGES
from pipeline.config import LLMConfig
from pipeline.llm.cached_generator import kept_replies
from pipeline.llm.failures import UNASKED
from pipeline.llm.generator import Generator, OnReply, Reply, Request, no_listener, prompt_hash
from pipeline.llm.generator_wrapper import GeneratorWrapper


@dataclass(frozen=True)
class Forecast:
    """What a stage would ask. Where that is not known yet, `note` says how it will be.

    `prompts` are `new` and `reused` together; a reply that will have to be asked for twice is counted once. Tokens and
    hours are those of the new prompts: `tokens_in` measured by the tokenizer, or estimated where `note` says so;
    `tokens_out` and `hours` by earlier replies and runs of the same model, where there are any.
    """

    stage: str
    prompts: int | None = None
    new: int | None = None
    reused: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    hours: float | None = None
    note: str = ""


def total(forecasts: Sequence[Forecast]) -> Forecast:
    """Return what the stages that are known would ask together."""
    known = [each for each in forecasts if each.prompts is not None]

    def together(name: str) -> Any:
        figures = [getattr(each, name) for each in known]
        return None if not known or None in figures else sum(figures)

    names = ("prompts", "new", "reused", "tokens_in", "tokens_out", "hours")
    note = "" if len(known) == len(forecasts) else f"of {len(known)} of {len(forecasts)} stages"
    return Forecast("total", **{name: together(name) for name in names}, note=note)


def forecast(run: Run, steps: Sequence[Step]) -> list[Forecast]:
    """Return one forecast per stage of the plan that is to ask a language model; the current inputs are read.

    Where the run asks again, no reply of the lake counts, and `reused` is of prompts that stand twice.
    """
    specs, active = {spec.name: spec for spec in SPECS}, {stage.name: stage for stage in run.stages}
    to_run = [step.stage for step in steps if step.action in ("run", "depends")]
    maker = {artifact: name for name in to_run for artifact in active[name].makes}
    found = []
    for name in to_run:
        if not (specs[name].asks and specs[name].generator(run.models).asks_model):
            continue
        before = [maker[artifact] for artifact in active[name].reads if artifact in maker]
        if before:
            found.append(Forecast(name, note=f"known after a run --to {max(before, key=STAGES.index)}"))
        else:
            cache = run.lake.keyed_cache("replies")
            counting = CountingGenerator(run.models.language_model, cache, run.request.ask_again)
            dry_run(run, specs[name], counting)
            found.append(_forecast(run, specs[name], counting))
    return _within_limits(found, run.settings.llm)


def _within_limits(forecasts: Sequence[Forecast], llm: LLMConfig) -> list[Forecast]:
    """Return the forecasts with a note where a run would stop, by what is known: where [llm] limits what it asks."""
    noted, requests, tokens = [], 0, 0
    for each in forecasts:
        requests += each.new or 0
        tokens += (each.tokens_in or 0) + (each.tokens_out or 0)
        passed = [
            f"[llm] {name} = {limit}"
            for name, limit, count in (
                ("max_run_requests", llm.max_run_requests, requests),
                ("max_run_tokens", llm.max_run_tokens, tokens),
            )
            if 0 < limit < count
        ]
        stops = f"a run stops before the end, at {' or '.join(passed)}" if passed and each.new else ""
        noted.append(replace(each, note="; ".join(filter(None, (each.note, stops)))))
    return noted


def _forecast(run: Run, spec: StageSpec, counted: "CountingGenerator") -> Forecast:
    notes = []
    earlier = _earlier(run.lake, spec.makes[0], counted.identity)
    if counted.tokens.is_estimate:
        notes.append("tokens in: four characters a token")
    if counted.held:
        each = counted.held_tokens_out / counted.held
    elif known := next((manifest for manifest in earlier if _rows(manifest)), None):
        each = known.figures["tokens_out"] / _rows(known)
    else:
        each = counted.most_tokens_out / max(counted.new, 1)
        notes.append("tokens out: at most, no earlier reply")
    asked = sum(manifest.figures.get("asked", 0) for manifest in earlier)
    hours = None
    if not counted.new:
        hours = 0.0
    elif not asked:
        notes.append("hours: no earlier run of this model")
    else:  # over all runs: one that asked little took its time to start
        seconds = sum(manifest.figures.get("seconds_asking", 0.0) for manifest in earlier)
        hours = counted.new * seconds / asked / 3600
    return Forecast(
        spec.name,
        counted.prompts,
        counted.new,
        counted.prompts - counted.new,
        counted.tokens_in,
        round(each * counted.new),
        hours,
        "; ".join(notes),
    )


def _earlier(lake: Lake, artifact: str, identity: Mapping[str, Any]) -> list[Manifest]:
    """Return the manifests that the lake keeps of an artifact made with this model, the newest first."""
    return [run for run in lake.kept_runs(artifact) if run.settings.get("llm") == dict(identity)]


def _rows(run: Manifest) -> int:
    """Return how many rows were asked for."""
    failed: dict[str, int] = run.figures.get("failed", {})
    return int(run.figures.get("ok", 0)) + sum(count for reason, count in failed.items() if reason not in UNASKED)


class CountingGenerator(GeneratorWrapper):
    """A `Generator` that counts what it is asked and answers from the lake's replies alone; others fail, unasked."""

    def __init__(self, generator: Generator, cache: KeyedCache, ask_again: bool) -> None:
        super().__init__(generator)
        self._cache, self._ask_again = cache, ask_again
        self._asked: set[str] = set()
        self.prompts = self.new = self.tokens_in = self.most_tokens_out = self.held = self.held_tokens_out = 0

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return the reply to each request that the lake holds, and a failed one for the others."""
        keys = [prompt_hash(request, self.identity) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        held = {} if self._ask_again else kept_replies(self._cache, by_key, self.identity)
        new = {key: each for key, each in by_key.items() if key not in held and key not in self._asked}
        self._asked |= new.keys()
        self.prompts += len(requests)
        self.new += len(new)
        self.tokens_in += sum(self.tokens.count(list(new.values())))
        self.most_tokens_out += sum(request.max_tokens for request in new.values() if not request.choices)
        self.held += len(held)
        self.held_tokens_out += sum(reply.tokens_out for reply in held.values())
        return [held.get(key, Reply(None, "not_asked")) for key in keys]
