"""Every stage, in the order of a run: its declaration, and the work that calls what computes it.

A work imports what it needs when it starts: nothing heavy is loaded before.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from data_lake.config import Config
from data_lake.errors import shortened
from data_lake.lake import Engine, Lake, Stage
from data_lake.schemas import ALL, SEQUENCES
from data_lake.stage_io import Make, Part, unchanged
from flows.counting import with_counts
from flows.gate import READS as GATE_READS
from flows.gate import check_gate
from flows.models import Models
from flows.settings import Settings, TrainSettings
from flows.stage_spec import StageRun, StageSpec, all_but
from flows.text import log
from flows.trainer import run_folder, run_model
from flows.warm import train
from model.config import MACHINE, EvaluateConfig, RecommendConfig
from pipeline.llm.prompts import PROFILE_REPLY, load_prompt

if TYPE_CHECKING:
    from pipeline.augment.candidates import Candidates
    from pipeline.augment.ground import Answered
    from pipeline.llm.cooccurrence import Neighbours
    from pipeline.llm.generator import ItemSource

PAIR = ("from_domain", "to_domain")

CANDIDATES_SEED = 0
"""Of the evaluation's candidates: the same for every model and every run."""

ON_MACHINE = ("batch_size", "device", "stream")
"""Settings of evaluation and recommendation that change no result."""


def _ingest(run: StageRun) -> None:
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


def _split(run: StageRun) -> None:
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


def _describe_items(run: StageRun) -> None:
    from pipeline.describe_items import describe_items

    cfg, items = run.settings.describe, run.io.read("items")

    def descriptions(rows: pa.Table) -> pa.Table:
        return describe_items(rows, run.generator, cfg, run.settings.domains, run.domains)

    _ask(run, "describe_items", "item_descriptions", [lambda: items], ("item_id",), descriptions, cfg.rows_per_shard)


def _embed_items_reads(settings: Settings) -> tuple[str, ...]:
    return ("items", "item_descriptions") if settings.describe.is_on else ("items",)


def _embed_items(run: StageRun) -> None:
    from pipeline.vectors.embed_items import embed_items, with_descriptions

    items, is_described = run.io.read("items"), "item_descriptions" in run.reads
    if is_described:
        items = with_descriptions(items, run.io.read("item_descriptions"))
    make = with_counts(run.io, lambda rows: embed_items(rows, run.embed, is_described), run.embed, lambda table: {})
    run.io.sharded("item_embeddings", [Part.of(items, make)], ("item_id",), run.settings.embed.rows_per_shard)
    run.models.close()


def _probe(run: StageRun) -> None:
    from pipeline.augment.probe import probe

    run.io.write("probes", probe(partial(run.io.read_parts, "sequences"), run.settings.enrich))


def _parts(run: StageRun, artifact: str, columns: Sequence[str] | None = None) -> list[Callable[[], pa.Table]]:
    """Return what reads each part of an artifact."""
    return [partial(run.io.read_part, artifact, number, columns) for number in range(run.io.count_parts(artifact))]


def _asked_users(run: StageRun) -> list[Callable[[], pa.Table]]:
    """Return what reads the sequences of each part of the users, and at last those of the probes."""
    return [*_parts(run, "sequences"), lambda: run.io.read("probes").select(SEQUENCES.tables[""].names)]


def _represent(run: StageRun) -> None:
    from pipeline.augment.represent import represent
    from pipeline.vectors.catalogue import Catalogue

    catalogue, cfg = Catalogue.of(run.io.read("item_embeddings")), run.settings.enrich
    parts = run.io.each_of(_asked_users(run))
    run.io.write_parts("representatives", (represent(part, catalogue, cfg, run.domains) for part in parts))


def _with_examples(settings: Settings) -> bool:
    return settings.enrich.examples > 0


def _with_candidates(settings: Settings) -> bool:
    return settings.enrich.ask != "write"


def _neighbours(run: StageRun) -> "Neighbours":
    from pipeline.llm.cooccurrence import Neighbours

    parts, share = run.io.read_parts("sequences"), run.settings.enrich.prompt_share
    return Neighbours(parts, run.io.read("probes"), share, run.io.read("items"))


def _sources(run: StageRun) -> dict[str, "ItemSource"]:
    """Return what gives items for questions without a language model, by name."""
    from pipeline.llm.retrieval import Retrieval

    retrieval, neighbours = Retrieval(run.settings.enrich.exact_up_to), _neighbours(run)
    retrieval.read({name: run.io.read_parts(name) for name in retrieval.reads})
    return {
        "cooccurrence": neighbours.items,
        "retrieval": retrieval.items,
        "popular": partial(neighbours.items, by_neighbours=False),
    }


def _candidates(run: StageRun, sources: Mapping[str, "ItemSource"]) -> "Candidates":
    from pipeline.augment.candidates import Candidates
    from pipeline.llm.prompts import titles_of

    cfg, items = run.settings.enrich, run.io.read("items")
    return Candidates(list(sources.values()), titles_of(items, items["item_id"]), cfg.candidates, cfg.seed)


def _generate_items(run: StageRun) -> None:
    from pipeline.augment.examples import load_or_choose_examples
    from pipeline.augment.generate_items import generate_items, generation_rows, pairs_of

    cfg, items = run.settings.enrich, run.io.read("items")
    pairs, examples = pairs_of(cfg, run.domains), {}
    if run.generator.asks_model and cfg.noise_filter and not cfg.pairs:
        pairs = _that_may_pay(pairs, run)
    if cfg.examples:
        cache = run.io.keyed_cache("examples")
        histories = run.io.read("representatives"), run.io.read("sequences")
        examples = load_or_choose_examples(*histories, pairs, cfg, cache)
    is_shown = run.generator.asks_model and _with_candidates(run.settings)
    candidates = _candidates(run, _sources(run)) if is_shown else None

    def answers(rows: pa.Table) -> pa.Table:
        return generate_items(rows, items, run.generator, cfg, run.settings.domains, examples, candidates)

    about = [*cfg.users, *run.io.read("probes")["user_id"].to_pylist()] if cfg.users else None

    def rows(part: Callable[[], pa.Table]) -> pa.Table:
        return generation_rows(_only(about, part()), pairs, run.domains)

    parts = [partial(rows, part) for part in _parts(run, "representatives")]
    keys = ("user_id", "from_domain", "to_domain")
    _ask(run, "generate_items", "generated_items", parts, keys, answers, cfg.rows_per_shard)


def _only(users: Sequence[str] | None, table: pa.Table) -> pa.Table:
    """Return the rows of some users; of all where these are null."""
    return table if users is None else table.filter(pc.is_in(table["user_id"], value_set=pa.array(users)))


ASKED_HOW = (
    "enrich.representatives", "enrich.prompt_share", "enrich.answers", "enrich.title_tokens", "enrich.prompt",
    "enrich.examples", "enrich.ask", "enrich.candidates", "domains.describe", "domains.generate_prompt",
)  # fmt: skip
"""Settings of which another value has a generator give other answers."""


def _asked_how(run: StageRun) -> dict[str, object]:
    """Return what answers depend on besides users and items."""
    enrich = {name.split(".")[1] for name in ASKED_HOW if name.startswith("enrich.")}
    return {
        "generator": run.models.generator.fingerprint,
        "enrich": run.settings.enrich.model_dump(mode="json", include=enrich),
        "domains": {
            name: [domain.describe, domain.generate_prompt] for name, domain in sorted(run.settings.domains.items())
        },
    }


def _that_may_pay(pairs: Sequence[tuple[str, str]], run: StageRun) -> tuple[tuple[str, str], ...]:
    """Return the pairs of domains without those whose answers were measured not to pay; a log line names each."""
    from pipeline.augment.noise_filter import unpaying

    left_out = unpaying(pairs, _asked_how(run), run.settings.enrich.seed, run.io.keyed_cache("fitted"))
    for source, target in left_out:
        log(
            f"generate_items: {source} to {target} is not asked, for its answers did not pay when they were measured; "
            "name the pair in [enrich] pairs to ask all the same."
        )
    return tuple(pair for pair in pairs if pair not in left_out)


def _ground(run: StageRun) -> None:
    from pipeline.augment.ground import Grounder, Known
    from pipeline.augment.noise_filter import Evidence, keep_verdicts, load_or_learn, pairs_in
    from pipeline.vectors.catalogue import Catalogue

    cfg, items, probes = run.settings.enrich, run.io.read("items"), run.io.read("probes")
    known = Known(items, Catalogue.of(run.io.read("item_embeddings")), _neighbours(run))
    grounder, pairs = Grounder(known, cfg, run.domains), pairs_in(run.io.read_parts("generated_items", columns=PAIR))

    def answered(part: int) -> "Answered":
        generated = run.io.read_part("generated_items", part, columns=["user_id", *PAIR, "answers", "item_ids"])
        return known.answered(generated, run.io.read_part("representatives", part))

    users = _asked_users(run)
    of_probes = answered(len(users) - 1)
    evidence = Evidence(
        probes, lambda some: grounder.find(some, of_probes.generated, run.embed), of_probes.signals, known.catalogue,
        items,
    )  # fmt: skip
    asked_how, cache = _asked_how(run), run.io.keyed_cache("fitted")
    noise_filter = load_or_learn(evidence, pairs, asked_how, cfg.seed, cache)

    def opened(part: int) -> Make:
        make = partial(grounder.ground, answered=answered(part), embed=run.embed, noise_filter=noise_filter)
        return with_counts(run.io, make, run.embed, grounder.counts)

    parts = [Part(rows, partial(opened, part)) for part, rows in enumerate(users)]
    run.io.sharded("grounded_items", parts, ("user_id",), cfg.rows_per_shard)
    keep_verdicts(noise_filter, asked_how, cfg.seed, cache)
    run.io.count(**noise_filter.figures())
    for sentence in noise_filter.complaints():
        log(f"ground: {sentence}")
    run.models.close()


def _measure_answers(run: StageRun) -> None:
    from pipeline.augment.measure_answers import measure_answers, summary
    from pipeline.augment.truth import all_truth
    from pipeline.profile.clusters import assign_clusters, load_or_fit_centres
    from pipeline.vectors.catalogue import Catalogue

    catalogue = Catalogue.of(run.io.read("item_embeddings"))
    centres = load_or_fit_centres(catalogue, run.settings.profile, run.domains, run.io.keyed_cache("clusters"))
    baselines = _sources(run)
    if _with_candidates(run.settings):
        baselines["candidates"] = _candidates(run, baselines).of
    asked = (0, run.io.count_parts("sequences"))  # users are dealt by chance: those of one part tell; then probes
    representatives, grounded = (
        pa.concat_tables([run.io.read_part(artifact, part) for part in asked], promote_options="permissive")
        for artifact in ("representatives", "grounded_items")
    )
    table = measure_answers(
        all_truth(run.io.read_part("sequences", 0), run.io.read("probes"), run.settings.enrich),
        representatives, grounded, run.io.read("items"), assign_clusters(catalogue, centres), baselines,
    )  # fmt: skip
    run.io.write("answer_lift", table)
    run.io.count(**summary(table))


def _insert(run: StageRun) -> None:
    from pipeline.augment.insert import insert
    from pipeline.vectors.catalogue import Catalogue

    catalogue, cfg = Catalogue.of(run.io.read("item_embeddings")), run.settings.enrich
    augmented = (
        insert(part, run.io.read_part("grounded_items", number), catalogue, cfg, run.domains)
        for number, part in enumerate(run.io.read_parts("sequences"))
    )
    run.io.write_parts("augmented_sequences", augmented)


def _profile_domains(run: StageRun) -> None:
    from pipeline.histories import trained_users
    from pipeline.profile.clusters import assign_clusters, load_or_fit_centres
    from pipeline.profile.profile_domains import profile_domains, profile_rows
    from pipeline.vectors.catalogue import Catalogue

    cfg, items = run.settings.profile, run.io.read("items")
    catalogue = Catalogue.of(run.io.read("item_embeddings"))
    centres = load_or_fit_centres(catalogue, cfg, run.domains, run.io.keyed_cache("clusters"))
    clusters = assign_clusters(catalogue, centres)

    def profiles(augmented: pa.Table) -> pa.Table:
        rows = profile_rows(augmented, clusters, cfg.last_items, run.domains)
        return profile_domains(rows, items, run.generator, cfg, run.settings.domains)

    def rows(part: Callable[[], pa.Table]) -> pa.Table:
        return _only(run.settings.enrich.users or None, trained_users(part()))

    parts = [partial(rows, part) for part in _parts(run, "augmented_sequences")]
    _ask(run, "profile_domains", "domain_profiles", parts, ("user_id",), profiles, cfg.rows_per_shard)


def _profile_users(run: StageRun) -> None:
    from pipeline.profile.profile_users import profile_users, users_to_profile

    cfg = run.settings.profile

    def profiles(users: pa.Table) -> pa.Table:
        return profile_users(users, run.generator, cfg)

    def rows(part: Callable[[], pa.Table]) -> pa.Table:
        return users_to_profile(part())

    parts = [partial(rows, part) for part in _parts(run, "domain_profiles")]
    _ask(run, "profile_users", "user_profiles", parts, ("user_id",), profiles, cfg.rows_per_shard)


def _profile_scopes(settings: Settings, domains: Sequence[str]) -> list[str]:
    """Return the scopes of the profile vectors that training reads."""
    train = settings.train
    if not (train.pretrain.align_weight or train.finetune.align_weight):
        return []
    return list(domains) if train.aggregate == "gate" else [ALL]


def _embed_profiles(run: StageRun) -> None:
    from pipeline.profile.embed_profiles import embed_profiles, profiles_to_embed

    make = with_counts(run.io, lambda rows: embed_profiles(rows, run.embed), run.embed, lambda table: {})
    scopes = _profile_scopes(run.settings, run.domains)

    def rows(part: int) -> pa.Table:
        per_domain = run.io.read_part("domain_profiles", part)
        return profiles_to_embed(per_domain, run.io.read_part("user_profiles", part), scopes)

    parts = [Part(partial(rows, part), lambda: make) for part in range(run.io.count_parts("domain_profiles"))]
    run.io.sharded("profile_embeddings", parts, ("user_id", "scope"), run.settings.embed.rows_per_shard)
    if scopes:
        _measure_profiles(run, rows(0))
    run.models.close()


def _measure_profiles(run: StageRun, profiles: pa.Table) -> None:
    """Count what the profiles of the first part say: users are dealt into parts by chance."""
    from pipeline.profile.measure_profiles import complaints, draw_users, measure_profiles, summary
    from pipeline.profile.profile_domains import profile_rows
    from pipeline.vectors.catalogue import Catalogue

    catalogue, told = Catalogue.of(run.io.read("item_embeddings")), run.io.read_part("domain_profiles", 0)
    users = draw_users(run.io.read_part("augmented_sequences", 0), told["user_id"])
    item_ids = catalogue.item_ids.filter(pa.array(catalogue.has_text))
    no_clusters = pa.table({"item_id": item_ids, "cluster": pa.repeat(0, len(item_ids))})
    prompts = profile_rows(users, no_clusters, run.settings.profile.last_items, run.domains)
    found = measure_profiles(profiles, told, prompts, users, catalogue, run.domains, run.embed)
    run.io.count(**summary(found))
    for sentence in complaints(found):
        log(f"embed_profiles: warning: {sentence}.")


def _assemble_reads(settings: Settings) -> tuple[str, ...]:
    enriched = ("augmented_sequences", "profile_embeddings") if settings.enrich.is_on else ("sequences",)
    return (*enriched, "items", "item_embeddings")


def _assemble(run: StageRun) -> None:
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


def _pretrain(run: StageRun) -> None:
    data, folder = run.io.input("training_set"), run.io.folder("pretrained")
    train(run, "pretrain", "--data", data, "--out", folder, "--pretrained", folder)


def _finetune(run: StageRun) -> None:
    data, before, folder = run.io.input("training_set"), run.io.input("pretrained"), run.io.folder("checkpoint")
    train(run, "finetune", "--data", data, "--out", folder, "--pretrained", before, "--checkpoint", folder)


def _check_checkpoint(run: StageRun, folders: Mapping[str, Path]) -> None:
    run.models.close()
    check_gate(run, folders["checkpoint"])


def _evaluate(run: StageRun) -> None:
    trained = {"pretrained": run.io.input("pretrained"), "checkpoint": run.io.input("checkpoint")}
    out = {"metrics": run.io.folder("metrics"), "ranks": run.io.folder("ranks")}
    _use_model(run, "evaluate", trained, out, run.settings.evaluate)


def _recommend(run: StageRun) -> None:
    trained = {"checkpoint": run.io.input("checkpoint")}
    out = {"recommendations": run.io.folder("recommendations")}
    _use_model(run, "recommend", trained, out, run.settings.recommend)


def _ask(
    run: StageRun, stage: str, artifact: str, parts: Sequence[Callable[[], pa.Table]], keys: Sequence[str], make: Make,
    rows_per_shard: int,
) -> None:  # fmt: skip
    """Make an artifact of replies, shard by shard; what a language model says is counted and judged."""
    from flows.judge import Judge
    from pipeline.llm.answers import figures

    review = unchanged
    if run.generator.asks_model:
        judge = Judge(run.io, run.generator, stage, run.settings.llm)
        make, review = judge.judging(make), judge.review
    counted = with_counts(run.io, make, run.generator, figures)
    run.io.sharded(artifact, [Part(rows, lambda: counted) for rows in parts], keys, rows_per_shard, review)


def _use_model(run: StageRun, verb: str, trained: dict[str, Path], out: dict[str, Path], cfg: Config) -> None:
    run.models.close()
    with run_folder(**trained) as run_dir, run_folder(**out) as out_dir:
        folders = ("--data", run.io.input("training_set"), "--run", run_dir, "--out", out_dir)
        run_model(verb, *folders, config=cfg)


def _reply_form(settings: Settings) -> dict[str, str]:
    return {"reply_form": PROFILE_REPLY[settings.profile.reply]}


LIMITS = ("llm.max_failed", "llm.max_useless", "llm.max_alike")
"""Settings that end a stage and change no result."""

ON_TRAINING_MACHINE = ("processes", *MACHINE)

SPECS: tuple[StageSpec, ...] = (
    StageSpec(
        name="ingest",
        version=4,
        reads=(),
        makes=("interactions", "items", "queries", "rejects"),
        settings=("data", "split.by", "split.validation_queries", "split.test_queries", "lake.actions_per_part"),
        work=_ingest,
        sources=lambda settings: [*settings.data.sources(), *settings.split.sources()],
    ),
    StageSpec(
        name="split",
        version=1,
        reads=("interactions", "queries"),
        makes=("sequences",),
        settings=("split",),
        work=_split,
    ),
    StageSpec(
        name="describe_items",
        version=1,
        reads=("items",),
        makes=("item_descriptions",),
        settings=(
            "describe.attributes", "describe.goes_with", "describe.title_tokens", "describe.max_tokens",
            "describe.prompt", "domains.describe",
        ),
        machine=("describe.rows_per_shard", *LIMITS),
        work=_describe_items,
        describes=True,
        asks=True,
        by_domain=True,
    ),
    StageSpec(
        name="embed_items",
        version=1,
        reads=_embed_items_reads,
        makes=("item_embeddings",),
        settings=(),
        machine=("embed.rows_per_shard",),
        work=_embed_items,
        encodes=True,
    ),
    StageSpec(
        name="probe",
        version=2,
        reads=("sequences",),
        makes=("probes",),
        settings=("enrich.probes", "enrich.seed"),
        work=_probe,
        enriches=True,
    ),
    StageSpec(
        name="represent",
        version=4,
        reads=("sequences", "probes", "item_embeddings"),
        makes=("representatives",),
        settings=("enrich.representatives", "enrich.prompt_share", "enrich.budget"),
        work=_represent,
        enriches=True,
        by_domain=True,
    ),
    StageSpec(
        name="generate_items",
        version=7,
        reads=lambda settings: (
            "items", "representatives",
            *(("sequences",) if _with_examples(settings) or _with_candidates(settings) else ()),
            *(("probes",) if settings.enrich.users or _with_candidates(settings) else ()),
            *(("item_embeddings",) if _with_candidates(settings) else ()),
        ),
        makes=("generated_items",),
        settings=(
            "enrich.users", "enrich.noise_filter", "enrich.seed", "enrich.pairs", "enrich.max_tokens",
            "enrich.exact_up_to", *ASKED_HOW,
        ),
        constants=lambda settings: {"example": load_prompt("example")} if _with_examples(settings) else {},
        machine=("enrich.rows_per_shard", *LIMITS),
        work=_generate_items,
        enriches=True,
        asks=True,
        by_domain=True,
    ),
    StageSpec(
        name="ground",
        version=5,
        reads=("sequences", "probes", "items", "item_embeddings", "representatives", "generated_items"),
        makes=("grounded_items",),
        settings=(
            "enrich.noise_filter", "enrich.faithful_quantile", "enrich.sample", "enrich.seed", "enrich.exact_up_to",
            *ASKED_HOW,
        ),
        machine=("enrich.rows_per_shard",),
        work=_ground,
        enriches=True,
        encodes=True,
        by_domain=True,
    ),
    StageSpec(
        name="measure_answers",
        version=3,
        reads=("sequences", "probes", "items", "item_embeddings", "representatives", "grounded_items"),
        makes=("answer_lift",),
        settings=(
            "enrich.prompt_share", "enrich.exact_up_to", "enrich.ask", "enrich.candidates", "enrich.seed",
            "profile.clusters", "profile.seed",
        ),
        work=_measure_answers,
        enriches=True,
        by_domain=True,
    ),
    StageSpec(
        name="insert",
        version=3,
        reads=("sequences", "item_embeddings", "grounded_items"),
        makes=("augmented_sequences",),
        settings=("enrich.prompt_share", "enrich.place"),
        work=_insert,
        enriches=True,
        by_domain=True,
    ),
    StageSpec(
        name="profile_domains",
        version=9,
        reads=("items", "item_embeddings", "augmented_sequences"),
        makes=("domain_profiles",),
        settings=(
            "enrich.users", "profile.clusters", "profile.seed", "profile.last_items", "profile.words",
            "profile.title_tokens", "profile.max_tokens", "profile.reply", "profile.domain_prompt", "domains.describe",
            "domains.profile_prompt",
        ),
        machine=("profile.rows_per_shard", *LIMITS),
        constants=_reply_form,
        work=_profile_domains,
        enriches=True,
        asks=True,
        by_domain=True,
    ),
    StageSpec(
        name="profile_users",
        version=7,
        reads=("domain_profiles",),
        makes=("user_profiles",),
        settings=("profile.words", "profile.user_words", "profile.max_tokens", "profile.reply", "profile.user_prompt"),
        machine=("profile.rows_per_shard", *LIMITS),
        constants=_reply_form,
        work=_profile_users,
        enriches=True,
        asks=True,
    ),
    StageSpec(
        name="embed_profiles",
        version=3,
        reads=("domain_profiles", "user_profiles", "augmented_sequences", "item_embeddings"),
        makes=("profile_embeddings",),
        settings=("profile.last_items",),
        constants=lambda settings: {"scopes": _profile_scopes(settings, ["each domain"])},
        machine=(
            "embed.rows_per_shard", "train.aggregate", "train.pretrain.align_weight", "train.finetune.align_weight",
        ),
        work=_embed_profiles,
        enriches=True,
        encodes=True,
        by_domain=True,
    ),
    StageSpec(
        name="assemble",
        version=3,
        reads=_assemble_reads,
        makes=("training_set",),
        settings=("data.times",),
        constants=lambda settings: {"candidates_seed": CANDIDATES_SEED},
        work=_assemble,
        by_domain=True,
    ),
    StageSpec(
        name="pretrain",
        version=9,
        reads=("training_set",),
        makes=("pretrained",),
        settings=all_but("train", TrainSettings, "finetune", *ON_TRAINING_MACHINE),
        machine=tuple(f"train.{name}" for name in ON_TRAINING_MACHINE),
        work=_pretrain,
    ),
    StageSpec(
        name="finetune",
        version=10,
        reads=("training_set", "pretrained"),
        makes=("checkpoint",),
        settings=all_but("train", TrainSettings, "pretrain", *ON_TRAINING_MACHINE),
        machine=(*(f"train.{name}" for name in ON_TRAINING_MACHINE), *GATE_READS),
        work=_finetune,
        check=_check_checkpoint,
    ),
    StageSpec(
        name="evaluate",
        version=1,
        reads=("training_set", "pretrained", "checkpoint"),
        makes=("metrics", "ranks"),
        settings=all_but("evaluate", EvaluateConfig, *ON_MACHINE),
        machine=tuple(f"evaluate.{name}" for name in ON_MACHINE),
        work=_evaluate,
    ),
    StageSpec(
        name="recommend",
        version=2,
        reads=("training_set", "checkpoint"),
        makes=("recommendations",),
        settings=all_but("recommend", RecommendConfig, *ON_MACHINE),
        machine=tuple(f"recommend.{name}" for name in ON_MACHINE),
        work=_recommend,
        sources=lambda settings: settings.recommend.sources(),
    ),
)  # fmt: skip

STAGES = tuple(spec.name for spec in SPECS)
"""The names of all stages, in the order of a run."""

if TYPE_CHECKING:
    StageName = StrEnum
else:
    StageName = StrEnum("StageName", {name.upper(): name for name in STAGES}, module=__name__)
    StageName.__doc__ = "A stage, for who chooses one from a list."

ASKING = {spec.name: spec.makes[0] for spec in SPECS if spec.asks}
"""The stages that ask a generator, and what each makes."""


def open_lake(settings: Settings, engine: Engine | None = None) -> Lake:
    """Return the lake of the settings' dataset; `engine` makes the shards of its stages, by default this process."""
    return Lake(settings.lake.root, settings.dataset, settings.lake.keep, engine=engine)


def stages(settings: Settings, models: Models, specs: Sequence[StageSpec] = SPECS) -> list[Stage]:
    """Return the stages that the settings turn on, in order."""
    return [spec.stage(settings, models) for spec in specs if spec.is_on(settings)]
