"""The work of the stages that augment: questions, answers, what these are worth, and what is inserted."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from data_lake.schemas import SEQUENCES
from data_lake.stage_io import Make, Part
from flows.counting import with_counts
from flows.settings import Settings
from flows.stage_spec import StageRun
from flows.text import log
from flows.work.asking import ask, of_users_only

if TYPE_CHECKING:
    from pipeline.augment.candidates import Candidates
    from pipeline.augment.ground import Answered
    from pipeline.llm.cooccurrence import Neighbours
    from pipeline.llm.generator import ItemSource


PAIR = ("from_domain", "to_domain")


def probe(run: StageRun) -> None:
    from pipeline.augment.probe import probe

    run.io.write("probes", probe(partial(run.io.read_parts, "sequences"), run.settings.enrich))


def _asked_users(run: StageRun) -> list[Callable[[], pa.Table]]:
    """Return what reads the sequences of each part of the users, and at last those of the probes."""
    return [*run.io.parts("sequences"), lambda: run.io.read("probes").select(SEQUENCES.tables[""].names)]


def represent(run: StageRun) -> None:
    from pipeline.augment.represent import represent
    from pipeline.vectors.catalogue import Catalogue

    catalogue, cfg = Catalogue.of(run.io.read("item_embeddings")), run.settings.enrich
    parts = run.io.each_of(_asked_users(run))
    run.io.write_parts("representatives", (represent(part, catalogue, cfg, run.domains) for part in parts))


def with_candidates(settings: Settings) -> bool:
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


def generate_items(run: StageRun) -> None:
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
    is_shown = run.generator.asks_model and with_candidates(run.settings)
    candidates = _candidates(run, _sources(run)) if is_shown else None

    def answers(rows: pa.Table) -> pa.Table:
        return generate_items(rows, items, run.generator, cfg, run.settings.domains, examples, candidates)

    about = [*cfg.users, *run.io.read("probes")["user_id"].to_pylist()] if cfg.users else None

    def rows(part: Callable[[], pa.Table]) -> pa.Table:
        return generation_rows(of_users_only(about, part()), pairs, run.domains)

    parts = [partial(rows, part) for part in run.io.parts("representatives")]
    keys = ("user_id", "from_domain", "to_domain")
    ask(run, "generate_items", "generated_items", parts, keys, answers, cfg.rows_per_shard)


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


def ground(run: StageRun) -> None:
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


def measure_answers(run: StageRun) -> None:
    from pipeline.augment.measure_answers import measure_answers, summary
    from pipeline.augment.truth import all_truth
    from pipeline.profile.clusters import assign_clusters, load_or_fit_centres
    from pipeline.vectors.catalogue import Catalogue

    catalogue = Catalogue.of(run.io.read("item_embeddings"))
    centres = load_or_fit_centres(catalogue, run.settings.profile, run.domains, run.io.keyed_cache("clusters"))
    baselines = _sources(run)
    if with_candidates(run.settings):
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


def insert(run: StageRun) -> None:
    from pipeline.augment.insert import insert
    from pipeline.vectors.catalogue import Catalogue

    catalogue, cfg = Catalogue.of(run.io.read("item_embeddings")), run.settings.enrich
    augmented = (
        insert(part, run.io.read_part("grounded_items", number), catalogue, cfg, run.domains)
        for number, part in enumerate(run.io.read_parts("sequences"))
    )
    run.io.write_parts("augmented_sequences", augmented)
