"""A stage at work on its inputs while nothing is asked or written, to learn what it would ask."""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data_lake.keyed_cache import KeyedCache
from data_lake.lake import StageIO
from data_lake.stage_io import Part, Review, unchanged
from data_lake.stores import Store
from flows.models import Models
from flows.run import Run
from flows.settings import Settings
from flows.stage_spec import StageSpec
from flows.stages import ASKING, SPECS
from pipeline.llm.cached_generator import kept_replies
from pipeline.llm.generator import Generator, OnReply, Reply, Request, no_listener, prompt_hash
from pipeline.llm.generator_wrapper import GeneratorWrapper


def dry_run(
    run: Run, spec: StageSpec, generator: Generator, users: Collection[str] | None = None, **instead: pa.Table
) -> dict[str, pa.Table]:
    """Let a stage work on its current inputs with `generator`, for these users alone, or for all.

    `instead` are tables that it reads in the place of artifacts. Returns what it makes of `users`, by artifact.
    """
    with _DryModels(run.settings, generator) as models:
        stage = spec.stage(_never_stopping(run.settings), models)
        io = DryRunIO(run.lake.store, stage.name, stage.reads, stage.makes, users, instead)
        stage.work(io)
    return {artifact: pa.concat_tables(tables) for artifact, tables in io.made.items()}


def _never_stopping(settings: Settings) -> Settings:
    """Return settings by which kept replies end no stage, however bad they are."""
    llm = settings.llm.model_copy(update={"max_failed": 1.0, "max_useless": 1.0, "max_alike": 1.0})
    return settings.model_copy(update={"llm": llm})


class _DryModels(Models):
    """Models of which none starts: every stage is given the one generator."""

    def __init__(self, settings: Settings, generator: Generator) -> None:
        super().__init__(settings)
        self._given = generator

    def generator_with_cache(self, generator: Generator, cache: KeyedCache) -> Generator:
        """Return the generator that was given."""
        return self._given


def asking_about_users(run: Run) -> list[StageSpec]:
    """Return the stages that ask the generator about users, whose inputs are all there."""
    reads = {stage.name: stage.reads for stage in run.stages}
    asking = [spec for spec in SPECS if spec.name in ASKING and not spec.describes and spec.name in reads]
    return [spec for spec in asking if all(map(run.lake.manifest, reads[spec.name]))]


class KeptReplies(GeneratorWrapper):
    """A `Generator` that answers from the lake's replies alone; others fail, unasked."""

    def __init__(self, generator: Generator, cache: KeyedCache) -> None:
        super().__init__(generator)
        self._cache = cache

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return the reply to each request that the lake holds, and a failed one for the others."""
        keys = [prompt_hash(request, self.identity) for request in requests]
        held = kept_replies(self._cache, dict(zip(keys, requests, strict=True)), self.identity)
        return [held.get(key, Reply(None, "not_asked")) for key in keys]


class Recorder(GeneratorWrapper):
    """A `Generator` that keeps each request that it hands on, by the hash that artifacts of replies know it by."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        self.requests: dict[str, Request] = {}

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        self.requests |= {prompt_hash(request, self.identity): request for request in requests}
        return self._generator(requests, on_reply)


class DryRunIO(StageIO):
    """A stage's inputs as they are, or `instead`, and no outputs. With `users` only rows of these are made."""

    def __init__(
        self, store: Store, stage: str, reads: Sequence[str], makes: Sequence[str], users: Collection[str] | None,
        instead: Mapping[str, pa.Table],
    ) -> None:  # fmt: skip
        super().__init__(store, stage, reads, makes, fingerprint="")
        self._users, self._instead = users, instead
        self.made: dict[str, list[pa.Table]] = {}

    def read(self, artifact: str, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table of an input, or what stands in its place."""
        if artifact not in self._instead:
            return super().read(artifact, table, columns)
        return self._instead[artifact] if columns is None else self._instead[artifact].select(list(columns))

    def read_part(self, artifact: str, number: int, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Return a part of an input, or what stands in the place of the whole."""
        if artifact in self._instead:
            return self.read(artifact, table, columns)
        return super().read_part(artifact, number, table, columns)

    def count_parts(self, artifact: str, table: str = "") -> int:
        """Return how many parts an input has; one where something stands in its place."""
        return 1 if artifact in self._instead else super().count_parts(artifact, table)

    def sharded(
        self, artifact: str, parts: Sequence[Part], keys: Sequence[str], rows_per_shard: int, review: Review = unchanged
    ) -> None:
        """Make each shard; those of `users` are kept in `made`, others are dropped."""
        for part in parts:
            rows = part.rows()
            if self._users is not None:
                rows = rows.filter(pc.is_in(rows["user_id"], value_set=pa.array(self._users, pa.string())))
            if not rows.num_rows:
                continue
            make = part.open()
            for start in range(0, rows.num_rows, rows_per_shard):
                shard = make(rows.slice(start, rows_per_shard))
                if self._users is not None:
                    self.made.setdefault(artifact, []).append(shard)

    def keyed_cache(self, name: str) -> KeyedCache:
        """Return the dataset's cache; what is put into it is dropped."""
        return _ReadOnly(self._store.keyed_cache(name).folder)


class _ReadOnly(KeyedCache):
    def put(self, table: pa.Table) -> None:
        """Drop the rows."""
