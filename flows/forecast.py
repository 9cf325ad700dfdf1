"""What the language model would be asked by the stages that are to run: prompts, tokens, hours. Nothing is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from data_lake.lake import Lake, StageIO
from data_lake.manifest import Manifest, load
from flows.engines import Engines
from flows.plan import Step
from flows.settings import Settings
from flows.stages import STAGES, stages
from pipeline.llm.failures import UNASKED
from pipeline.llm.generator import Generate, Reply, Request, prompt_hash

ASKING = {
    "generate_items": "generated_items",
    "profile_domains": "domain_profiles",
    "profile_users": "user_profiles",
}
"""The stages that ask a language model, and what each makes."""


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


def forecast(lake: Lake, settings: Settings, steps: Sequence[Step], ask_again: bool = False) -> list[Forecast]:
    """Return one forecast per stage of the plan that is to ask a language model; the inputs in force are read.

    With `ask_again` no reply of the lake counts, and `reused` is of prompts that stand twice.
    """
    if settings.enrich.generator not in ("vllm", "openai"):
        return []
    engines = _Listening(settings)
    on = {stage.name: stage for stage in stages(settings, engines)}
    maker = {
        artifact: step.stage for step in steps if step.action in ("run", "depends") for artifact in on[step.stage].makes
    }
    found = []
    for step in steps:
        if step.stage not in ASKING or step.action not in ("run", "depends"):
            continue
        stage = on[step.stage]
        before = [maker[artifact] for artifact in stage.reads if artifact in maker]
        if before:
            found.append(Forecast(step.stage, note=f"known after `edt run --to {max(before, key=STAGES.index)}`"))
            continue
        listener = engines.listener = _Listener(engines, lake, ask_again)
        stage.work(_Rehearsal(lake.store, stage.name, stage.reads, stage.makes, ""))
        found.append(_told(step.stage, listener, lake, settings))
    return found


def _told(stage: str, heard: "_Listener", lake: Lake, settings: Settings) -> Forecast:
    notes = []
    earlier = _earlier(lake, ASKING[stage], heard.identity)
    if settings.enrich.generator == "openai" and not settings.openai.tokenizer:
        notes.append("tokens in: four characters a token")
    if heard.held:
        each = heard.held_tokens_out / heard.held
    elif known := next((run for run in earlier if _rows(run)), None):
        each = known.figures["tokens_out"] / _rows(known)
    else:
        each = heard.most_tokens_out / max(heard.new, 1)
        notes.append("tokens out: at most, no earlier reply")
    asked = sum(run.figures.get("asked", 0) for run in earlier)
    hours = None
    if not heard.new:
        hours = 0.0
    elif not asked:
        notes.append("hours: no earlier run of this model")
    else:  # over all runs: one that asked little took its time to start
        seconds = sum(run.figures.get("seconds_asking", 0.0) for run in earlier)
        hours = heard.new * seconds / asked / 3600
    return Forecast(
        stage,
        heard.prompts,
        heard.new,
        heard.prompts - heard.new,
        heard.tokens_in,
        round(each * heard.new),
        hours,
        "; ".join(notes),
    )


def _earlier(lake: Lake, artifact: str, identity: Mapping[str, Any]) -> list[Manifest]:
    """Return the manifests that the lake keeps of an artifact made with this model, the newest first."""
    found = [
        load(path.parent) for path in (lake.home / artifact).glob("*/manifest.json") if path.parent.name != "current"
    ]
    by_model = [run for run in found if run is not None and run.settings.get("llm") == dict(identity)]
    return sorted(by_model, key=lambda run: run.started, reverse=True)


def _rows(run: Manifest) -> int:
    """Return how many rows were asked for."""
    failed: dict[str, int] = run.figures.get("failed", {})
    return int(run.figures.get("ok", 0)) + sum(count for reason, count in failed.items() if reason not in UNASKED)


class _Listener:
    """A `Generate` that counts what it is asked, answers what the lake remembers, and nothing else."""

    def __init__(self, engines: Engines, lake: Lake, ask_again: bool) -> None:
        self._engines, self._memory, self._ask_again = engines, lake.keyed_cache("replies"), ask_again
        self._asked: set[str] = set()
        self.prompts = self.new = self.tokens_in = self.most_tokens_out = self.held = self.held_tokens_out = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._engines.llm.identity

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        keys = [prompt_hash(request, self.identity) for request in requests]
        known = [] if self._ask_again else self._memory.get(keys).to_pylist()
        held = {row.pop("key"): Reply(**row) for row in known}
        new = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in held and key not in self._asked
        }
        self._asked |= new.keys()
        self.prompts += len(requests)
        self.new += len(new)
        self.tokens_in += sum(self._engines.tokens.count(list(new.values())))
        self.most_tokens_out += sum(request.max_tokens for request in new.values())
        self.held += len(held)
        self.held_tokens_out += sum(reply.tokens_out for reply in held.values())
        return [held.get(key, Reply(None, "not_asked")) for key in keys]


class _Listening(Engines):
    """Models of which none starts: whoever would ask the language model speaks to the listener."""

    listener: _Listener

    def generate(self, memory: KeyedCache, items: pa.Table, item_embeddings: pa.Table | None) -> Generate:
        return self.listener


class _Rehearsal(StageIO):
    """A stage's work on what is in force, without a trace in the lake."""

    def sharded(
        self,
        artifact: str,
        rows: pa.Table,
        keys: Sequence[str],
        make: Callable[[pa.Table], pa.Table],
        rows_per_shard: int,
    ) -> None:
        for start in range(0, rows.num_rows, rows_per_shard):
            make(rows.slice(start, rows_per_shard))

    def keyed_cache(self, name: str) -> KeyedCache:
        return _ReadOnly(self._store.keyed_cache(name).folder)


class _ReadOnly(KeyedCache):
    def put(self, table: pa.Table) -> None:
        """Keep nothing."""
