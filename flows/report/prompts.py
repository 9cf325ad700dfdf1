"""The prompts of some users, made again: the lake keeps of a prompt its hash alone."""

from collections.abc import Collection

from data_lake.errors import UserError
from flows.dry_run import KeptReplies, Recorder, asking_about_users, dry_run
from flows.run import Run
from pipeline.llm.generator import Message


def prompts_of(run: Run, users: Collection[str]) -> dict[str, tuple[Message, ...]]:
    """Return the messages of these users' prompts, by the hash that the artifacts of replies know each by.

    A prompt made from other inputs or settings than the current ones is not among them: its hash is another. A stage
    that lacks an input, or that the settings let make no prompt, adds none; a generator that is no language model has
    none.
    """
    if not (run.settings.enrich.is_on and run.models.generator.asks_model):
        return {}
    recorder = Recorder(KeptReplies(run.models.generator, run.lake.keyed_cache("replies")))
    for spec in asking_about_users(run):
        try:
            dry_run(run, spec, recorder, users)
        except UserError:  # what is wrong with the settings is for the stage to say
            continue
    return {key: request.messages for key, request in recorder.requests.items()}
