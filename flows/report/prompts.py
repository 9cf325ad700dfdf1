"""The prompts of some users, made again: the lake keeps of a prompt its hash alone."""

from collections.abc import Collection, Sequence

from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from flows.dry_run import dry_run
from flows.run import Run
from flows.stages import ASKING, SPECS
from pipeline.llm.cached_generator import kept_replies
from pipeline.llm.generator import Generator, Message, OnReply, Reply, Request, no_listener, prompt_hash
from pipeline.llm.generator_wrapper import GeneratorWrapper


def prompts_of(run: Run, users: Collection[str]) -> dict[str, tuple[Message, ...]]:
    """Return the messages of these users' prompts, by the hash that the artifacts of replies know each by.

    A prompt made from other inputs or settings than the current ones is not among them: its hash is another. A stage
    that lacks an input, or that the settings let make no prompt, adds none; a generator that is no language model has
    none.
    """
    if not (run.settings.enrich.is_on and run.models.generator.asks_model):
        return {}
    recorder = Recorder(run.models.generator, run.lake.keyed_cache("replies"))
    reads = {stage.name: stage.reads for stage in run.stages}
    for spec in SPECS:
        if spec.name in ASKING and not spec.describes and all(map(run.lake.manifest, reads[spec.name])):
            try:
                dry_run(run, spec, recorder, users)
            except UserError:  # what is wrong with the settings is for the stage to say
                continue
    return recorder.messages


class Recorder(GeneratorWrapper):
    """A `Generator` that keeps the messages it is sent, and answers from the lake's replies alone."""

    def __init__(self, generator: Generator, cache: KeyedCache) -> None:
        super().__init__(generator)
        self._cache = cache
        self.messages: dict[str, tuple[Message, ...]] = {}

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return the reply to each request that the lake holds, and a failed one for the others."""
        keys = [prompt_hash(request, self.identity) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        self.messages |= {key: request.messages for key, request in by_key.items()}
        held = kept_replies(self._cache, by_key, self.identity)
        return [held.get(key, Reply(None, "not_asked")) for key in keys]
