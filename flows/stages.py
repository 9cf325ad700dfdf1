"""Every stage in its order: what it reads and makes, the settings that it reads, and the call that does the work.

A stage's configuration holds only the settings that it names, all others at their defaults: what is not in the
fingerprint cannot change the result.
"""

from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from data_lake.config import Config
from data_lake.errors import UserError
from data_lake.lake import Lake, Stage, StageIO
from flows.counting import asking, counting
from flows.engines import Engines
from flows.settings import Settings
from flows.trainer import run_folder, run_model
from model.config import MACHINE, TrainConfig
from pipeline.config import DomainConfig
from pipeline.llm.prompts import load_prompt

ENRICHMENT = (
    "represent", "generate_items", "ground", "insert", "profile_domains", "profile_users", "embed_profiles",
)  # fmt: skip
"""The stages that are off where the generator is `none`."""

STAGES = (
    "ingest", "split", "embed_items", *ENRICHMENT, "assemble", "pretrain", "finetune", "evaluate", "recommend",
)  # fmt: skip
"""Every stage, in the order of a run."""

CANDIDATES_SEED = 0
"""Of the evaluation's candidates: the same for every model and every run."""

C = TypeVar("C", bound=Config)


def open_lake(settings: Settings) -> Lake:
    """Return the lake of the settings' dataset."""
    return Lake(settings.lake.root, settings.dataset, settings.lake.keep)


def stages(settings: Settings, engines: Engines) -> list[Stage]:
    """Return the stages that the settings turn on, in order. Nothing heavy is loaded before one of them works."""
    makers = {
        "ingest": _ingest,
        "split": _split,
        "embed_items": _embed_items,
        "represent": _represent,
        "generate_items": _generate_items,
        "ground": _ground,
        "insert": _insert,
        "profile_domains": _profile_domains,
        "profile_users": _profile_users,
        "embed_profiles": _embed_profiles,
        "assemble": _assemble,
        "pretrain": _pretrain,
        "finetune": _finetune,
        "evaluate": _evaluate,
        "recommend": _recommend,
    }
    off = ENRICHMENT if settings.enrich.generator == "none" else ()
    return [makers[name](settings, engines) for name in STAGES if name not in off]


def _ingest(settings: Settings, _engines: Engines) -> Stage:
    def work(lake: StageIO) -> None:
        from pipeline.ingest.ingest import ingest

        made = ingest(settings.data)
        lake.write("interactions", made.interactions)
        lake.write("items", made.items)
        lake.write("rejects", made.rejects)
        lake.count(**made.figures)

    return Stage(
        "ingest", 2, (), ("interactions", "items", "rejects"), {"data": settings.data.described()}, work,
        sources=tuple(settings.data.sources()),
    )  # fmt: skip


def _split(settings: Settings, _engines: Engines) -> Stage:
    def work(lake: StageIO) -> None:
        from pipeline.split import split

        sequences, figures = split(lake.read("interactions"), settings.split)
        lake.write("sequences", sequences)
        lake.count(**figures)

    return Stage("split", 1, ("interactions",), ("sequences",), {"split": settings.split.model_dump(mode="json")}, work)


def _embed_items(settings: Settings, engines: Engines) -> Stage:
    def work(lake: StageIO) -> None:
        from pipeline.vectors.embed_items import embed_items

        embed = engines.embed(lake.keyed_cache("vectors"))
        make = counting(lake, lambda rows: embed_items(rows, embed), embed)
        lake.sharded("item_embeddings", lake.read("items"), ("item_id",), make, settings.embed.rows_per_shard)
        engines.close()

    return Stage("embed_items", 1, ("items",), ("item_embeddings",), _encoder(engines), work)


def _represent(settings: Settings, _engines: Engines) -> Stage:
    cfg, said = _part(settings.enrich, "representatives", "evidence", "budget")

    def work(lake: StageIO) -> None:
        from pipeline.augment.represent import represent
        from pipeline.vectors.catalogue import Catalogue

        catalogue = Catalogue.of(lake.read("item_embeddings"))
        lake.write("representatives", represent(lake.read("sequences"), catalogue, cfg, _domains(lake, settings)))

    reads = ("items", "sequences", "item_embeddings")
    return Stage("represent", 1, reads, ("representatives",), {"enrich": said} | _order(settings), work)


def _generate_items(settings: Settings, engines: Engines) -> Stage:
    with_examples = settings.enrich.examples > 0
    names = ("pairs", "answers", "title_tokens", "max_tokens", "prompt")
    cfg, said = _part(settings.enrich, *names, *(("examples", "evidence", "seed") if with_examples else ()))
    about, described = _about(settings, "describe", "generate_prompt")

    def work(lake: StageIO) -> None:
        from pipeline.augment.examples import kept_examples
        from pipeline.augment.generate_items import generate_items, generation_rows, pairs_of

        items, representatives, domains = lake.read("items"), lake.read("representatives"), _domains(lake, settings)
        generate = _generator(lake, settings, engines, items)
        rows = generation_rows(representatives, cfg, domains)
        examples = {}
        if with_examples:
            pairs = pairs_of(cfg, domains)
            examples = kept_examples(representatives, lake.read("sequences"), pairs, cfg, lake.keyed_cache("examples"))

        def answers(part: pa.Table) -> pa.Table:
            return generate_items(part, items, generate, cfg, about, engines.tokens, examples)

        make = asking(lake, "generate_items", settings, engines, answers, generate)
        keys = ("user_id", "from_domain", "to_domain")
        lake.sharded("generated_items", rows, keys, make, settings.enrich.rows_per_shard)

    reads = _reads(settings, "items", "representatives", *(("sequences",) if with_examples else ()))
    said = {"enrich": said, "domains": described} | _order(settings) | _answerer(settings, engines)
    if with_examples:
        said["example"] = load_prompt("example")
    return Stage("generate_items", 3, reads, ("generated_items",), said, work)


def _ground(settings: Settings, engines: Engines) -> Stage:
    cfg, said = _part(
        settings.enrich,
        "evidence",
        "noise_filter",
        "faithful_quantile",
        "relevant_quantile",
        "sample",
        "seed",
        "exact_up_to",
    )

    def work(lake: StageIO) -> None:
        from pipeline.augment.ground import figures, ground, measure
        from pipeline.vectors.catalogue import Catalogue
        from pipeline.vectors.neighbours import recall

        catalogue, items = Catalogue.of(lake.read("item_embeddings")), lake.read("items")
        measures = measure(catalogue, cfg, _domains(lake, settings))
        representatives = lake.read("representatives")
        generated = lake.read("generated_items", columns=["user_id", "from_domain", "to_domain", "answers"])
        embed = engines.embed(lake.keyed_cache("vectors"))

        def grounded(sequences: pa.Table) -> pa.Table:
            return ground(sequences, representatives, generated, items, catalogue, measures, embed, cfg)

        make = counting(
            lake, grounded, embed, lambda table: figures(table) | recall(each.index for each in measures.values())
        )
        lake.sharded("grounded_items", lake.read("sequences"), ("user_id",), make, settings.enrich.rows_per_shard)
        engines.close()

    reads = ("items", "sequences", "item_embeddings", "representatives", "generated_items")
    return Stage("ground", 2, reads, ("grounded_items",), {"enrich": said} | _encoder(engines), work)


def _insert(settings: Settings, _engines: Engines) -> Stage:
    cfg, said = _part(settings.enrich, "evidence", "place")

    def work(lake: StageIO) -> None:
        from pipeline.augment.insert import insert
        from pipeline.vectors.catalogue import Catalogue

        catalogue, grounded = Catalogue.of(lake.read("item_embeddings")), lake.read("grounded_items")
        sequences = insert(lake.read("sequences"), grounded, catalogue, cfg, _domains(lake, settings))
        lake.write("augmented_sequences", sequences)

    reads = ("items", "sequences", "item_embeddings", "grounded_items")
    return Stage("insert", 1, reads, ("augmented_sequences",), {"enrich": said} | _order(settings), work)


def _profile_domains(settings: Settings, engines: Engines) -> Stage:
    names = ("clusters", "seed", "last_items", "words", "title_tokens", "max_tokens", "domain_prompt")
    cfg, said = _part(settings.profile, *names)
    about, described = _about(settings, "describe", "profile_prompt")

    def work(lake: StageIO) -> None:
        from pipeline.profile.clusters import assign_clusters, load_or_fit_centres
        from pipeline.profile.profile_domains import profile_domains
        from pipeline.vectors.catalogue import Catalogue

        items, domains = lake.read("items"), _domains(lake, settings)
        catalogue = Catalogue.of(lake.read("item_embeddings"))
        clusters = assign_clusters(
            catalogue, load_or_fit_centres(catalogue, cfg, domains, lake.keyed_cache("clusters"))
        )
        generate = _generator(lake, settings, engines, items)

        def profiles(augmented: pa.Table) -> pa.Table:
            return profile_domains(augmented, items, clusters, generate, cfg, domains, about, engines.tokens)

        make = asking(lake, "profile_domains", settings, engines, profiles, generate)
        users = lake.read("augmented_sequences")
        lake.sharded("domain_profiles", users, ("user_id",), make, settings.profile.rows_per_shard)

    said = {"profile": said, "domains": described} | _order(settings) | _answerer(settings, engines)
    reads = ("items", "item_embeddings", "augmented_sequences")
    return Stage("profile_domains", 5, reads, ("domain_profiles",), said, work)


def _profile_users(settings: Settings, engines: Engines) -> Stage:
    cfg, said = _part(settings.profile, "words", "user_words", "max_tokens", "user_prompt")

    def work(lake: StageIO) -> None:
        from pipeline.profile.profile_users import profile_users, users_to_profile

        generate = _generator(lake, settings, engines, lake.read("items"))

        def profiles(users: pa.Table) -> pa.Table:
            return profile_users(users, generate, cfg, engines.tokens)

        make = asking(lake, "profile_users", settings, engines, profiles, generate)
        rows = users_to_profile(lake.read("domain_profiles"))
        lake.sharded("user_profiles", rows, ("user_id",), make, settings.profile.rows_per_shard)

    reads = _reads(settings, "items", "domain_profiles")
    said = {"profile": said} | _answerer(settings, engines)
    return Stage("profile_users", 4, reads, ("user_profiles",), said, work)


def _embed_profiles(settings: Settings, engines: Engines) -> Stage:
    def work(lake: StageIO) -> None:
        from pipeline.profile.embed_profiles import embed_profiles, profiles_to_embed

        embed = engines.embed(lake.keyed_cache("vectors"))
        make = counting(lake, lambda rows: embed_profiles(rows, embed), embed)
        rows = profiles_to_embed(lake.read("domain_profiles"), lake.read("user_profiles"))
        lake.sharded("profile_embeddings", rows, ("user_id", "scope"), make, settings.embed.rows_per_shard)
        engines.close()

    reads = ("domain_profiles", "user_profiles")
    return Stage("embed_profiles", 1, reads, ("profile_embeddings",), _encoder(engines), work)


def _assemble(settings: Settings, _engines: Engines) -> Stage:
    enriched = settings.enrich.generator != "none"
    sequences = "augmented_sequences" if enriched else "sequences"

    def work(lake: StageIO) -> None:
        from pipeline.assemble import assemble

        tables = assemble(
            lake.read(sequences),
            lake.read("items"),
            lake.read("item_embeddings"),
            lake.read("profile_embeddings") if enriched else None,
            _domains(lake, settings),
            CANDIDATES_SEED,
        )
        for name, table in tables.items():
            lake.write("training_set", table, name)

    reads = (sequences, "items", "item_embeddings", *(("profile_embeddings",) if enriched else ()))
    said = {"candidates_seed": CANDIDATES_SEED} | _order(settings)
    return Stage("assemble", 1, reads, ("training_set",), said, work)


def _pretrain(settings: Settings, engines: Engines) -> Stage:
    cfg = _phase(settings, without="finetune")

    def work(lake: StageIO) -> None:
        engines.close()
        data, folder = lake.input("training_set"), lake.folder("pretrained")
        folders = ("--data", data, "--out", folder, "--pretrained", folder)
        run_model("train", "--phase", "pretrain", *folders, config=cfg, processes=settings.train.processes)

    said = {"train": cfg.model_dump(mode="json", exclude={"finetune", *MACHINE})}
    return Stage("pretrain", 6, ("training_set",), ("pretrained",), said, work)


def _finetune(settings: Settings, engines: Engines) -> Stage:
    cfg = _phase(settings, without="pretrain")

    def work(lake: StageIO) -> None:
        engines.close()
        data, before, folder = lake.input("training_set"), lake.input("pretrained"), lake.folder("checkpoint")
        folders = ("--data", data, "--out", folder, "--pretrained", before, "--checkpoint", folder)
        run_model("train", "--phase", "finetune", *folders, config=cfg, processes=settings.train.processes)

    said = {"train": cfg.model_dump(mode="json", exclude={"pretrain", *MACHINE})}
    return Stage("finetune", 6, ("training_set", "pretrained"), ("checkpoint",), said, work)


def _evaluate(settings: Settings, engines: Engines) -> Stage:
    cfg = settings.evaluate

    def work(lake: StageIO) -> None:
        engines.close()
        run = {"pretrained": lake.input("pretrained"), "checkpoint": lake.input("checkpoint")}
        out = {"metrics": lake.folder("metrics"), "ranks": lake.folder("ranks")}
        _model_run("evaluate", lake, run, out, cfg)

    said = {"evaluate": cfg.model_dump(mode="json", exclude={"batch_size", "device", "stream"})}
    reads = ("training_set", "pretrained", "checkpoint")
    return Stage("evaluate", 1, reads, ("metrics", "ranks"), said, work)


def _recommend(settings: Settings, engines: Engines) -> Stage:
    cfg = settings.recommend

    def work(lake: StageIO) -> None:
        engines.close()
        run, out = {"checkpoint": lake.input("checkpoint")}, {"recommendations": lake.folder("recommendations")}
        _model_run("recommend", lake, run, out, cfg)

    said = {"recommend": cfg.model_dump(mode="json", exclude={"batch_size", "device", "stream"})}
    return Stage("recommend", 2, ("training_set", "checkpoint"), ("recommendations",), said, work)


def _model_run(verb: str, lake: StageIO, run: dict[str, Path], out: dict[str, Path], cfg: Config) -> None:
    with run_folder(**run) as run_dir, run_folder(**out) as out_dir:
        run_model(verb, "--data", lake.input("training_set"), "--run", run_dir, "--out", out_dir, config=cfg)


def _part(cfg: C, *names: str) -> tuple[C, dict[str, Any]]:
    """Return a configuration that has only these settings, and the same as it stands in the fingerprint."""
    kept = type(cfg)(**{name: getattr(cfg, name) for name in names})
    return kept, kept.model_dump(mode="json", include=set(names))


def _phase(settings: Settings, without: str) -> TrainConfig:
    """Return the trainer's settings without those of the other phase."""
    names = TrainConfig.model_fields.keys() - {without}
    return TrainConfig(**{name: getattr(settings.train, name) for name in names})


def _about(settings: Settings, *names: str) -> tuple[dict[str, DomainConfig], dict[str, Any]]:
    parts = {domain: _part(cfg, *names) for domain, cfg in settings.domains.items()}
    return {domain: cfg for domain, (cfg, _) in parts.items()}, {domain: said for domain, (_, said) in parts.items()}


def _order(settings: Settings) -> dict[str, Any]:
    return {"domain_order": list(settings.domains)}


def _domains(lake: StageIO, settings: Settings) -> list[str]:
    """Return the domains of the catalogue: those that the settings name in their order, then the others by name."""
    known = sorted(lake.read("items", columns=["domain"])["domain"].unique().to_pylist())
    for name in settings.domains:
        if name not in known:
            raise UserError(f"[domains.{name}]: the items have no such domain. They have {', '.join(known)}.")
    return [*settings.domains, *(name for name in known if name not in settings.domains)]


def _encoder(engines: Engines) -> dict[str, Any]:
    return {"embed": {"model": engines.encoder.model, "revision": engines.encoder.revision}}


def _answerer(settings: Settings, engines: Engines) -> dict[str, Any]:
    """Return who answers and how much text it is given, as it stands in the fingerprint."""
    generator = settings.enrich.generator
    if generator == "retrieval":
        return {"generator": generator, "exact_up_to": settings.enrich.exact_up_to}
    known = {
        "generator": generator, "llm": dict(engines.llm.identity), "max_model_len": settings.llm.max_model_len,
        "retry_prompt": load_prompt("retry"),
    }  # fmt: skip
    return known | ({"tokenizer": engines.tokenizer} if generator == "openai" else {})


def _reads(settings: Settings, *artifacts: str) -> tuple[str, ...]:
    """Return what a generating stage reads; `retrieval` answers from the items' vectors."""
    return (*artifacts, *(("item_embeddings",) if settings.enrich.generator == "retrieval" else ()))


def _generator(lake: StageIO, settings: Settings, engines: Engines, items: pa.Table) -> Any:
    vectors = lake.read("item_embeddings") if settings.enrich.generator == "retrieval" else None
    return engines.generate(lake.keyed_cache("replies"), items, vectors)
