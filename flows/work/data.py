"""The work of the stages that read what is there, describe and embed items, and put together what the trainer reads."""

from datetime import datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from data_lake.errors import shortened
from data_lake.stage_io import Part
from flows.counting import with_counts
from flows.stage_spec import StageRun
from flows.text import log
from flows.work.asking import ask


def ingest(run: StageRun) -> None:
    from pipeline.ingest.forgotten import FORGOTTEN
    from pipeline.ingest.ingest import ingest

    forgotten = run.io.keyed_cache(FORGOTTEN).all_keys()
    per_part = run.settings.lake.actions_per_part
    found = ingest(run.settings.data, run.settings.split, forgotten, run.io.scratch(), per_part)
    run.io.write_parts("interactions", found.interactions)
    run.io.write("items", found.items)
    run.io.write("queries", found.queries)
    run.io.write_stream("rejects", found.rejects)
    run.io.count(**found.figures)
    for sentence in found.warnings:
        log(f"ingest: warning: {sentence}")


def split(run: StageRun) -> None:
    from pipeline.split import Split

    cfg, parts = run.settings.split, run.io.count_parts("interactions")
    split = Split(cfg, parts, run.io.read("queries"), _span(run) if cfg.by == "time" else None)
    interactions = enumerate(run.io.read_parts("interactions"))
    run.io.write_parts("sequences", (split.sequences(actions, part) for part, actions in interactions))
    run.io.count(**split.figures())
    for role, domains in split.domains_without_targets().items():
        if domains:
            log(f"split: warning: Domains without a {role} target: {shortened(map(repr, domains))}.")


def _span(run: StageRun) -> tuple[datetime, datetime]:
    """Return the times of the first and the last action."""
    times = [pc.min_max(part["timestamp"]) for part in run.io.read_parts("interactions", columns=["timestamp"])]
    known = [time.as_py() for time in times if time["min"].is_valid]
    return min(time["min"] for time in known), max(time["max"] for time in known)


def describe_items(run: StageRun) -> None:
    from pipeline.describe_items import describe_items

    cfg, items = run.settings.describe, run.io.read("items")

    def descriptions(rows: pa.Table) -> pa.Table:
        return describe_items(rows, run.generator, cfg, run.settings.domains, run.domains)

    ask(run, "describe_items", "item_descriptions", [lambda: items], ("item_id",), descriptions, cfg.rows_per_shard)


def embed_items(run: StageRun) -> None:
    from pipeline.vectors.embed_items import embed_items, with_descriptions

    items, is_described = run.io.read("items"), "item_descriptions" in run.reads
    if is_described:
        items = with_descriptions(items, run.io.read("item_descriptions"))
    make = with_counts(run.io, lambda rows: embed_items(rows, run.embed, is_described), run.embed, lambda table: {})
    run.io.sharded("item_embeddings", [Part.of(items, make)], ("item_id",), run.settings.embed.rows_per_shard)
    run.models.close()


CANDIDATES_SEED = 0
"""Of the evaluation's candidates: the same for every model and every run."""


def assemble(run: StageRun) -> None:
    from pipeline.assemble import Assembly, no_profile_vectors, number_users, profile_vectors

    histories = "augmented_sequences" if "augmented_sequences" in run.reads else "sequences"
    assembly = Assembly(run.io.read("items"), run.domains)
    write = partial(run.io.write_parts, "training_set")
    write(map(assembly.sequences, run.io.read_parts(histories)), "sequences")
    write(number_users(run.io.read_parts(histories, columns=["user_id"])), "users")
    if "profile_embeddings" in run.reads:
        users = number_users(run.io.read_parts(histories, columns=["user_id"]))
        vectors = (
            profile_vectors(part, run.io.read_part("profile_embeddings", number), run.domains)
            for number, part in enumerate(users)
        )
        write(vectors, "profile_vectors")
    else:
        run.io.write("training_set", no_profile_vectors(), "profile_vectors")
    run.io.write("training_set", assembly.items(), "items")
    run.io.write_stream("training_set", assembly.item_vectors(run.io.read("item_embeddings")), "item_vectors")
    run.io.write("training_set", assembly.info(CANDIDATES_SEED, run.settings.data.times), "info")
