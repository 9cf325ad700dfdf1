"""The work of the stages that write profiles and turn them into vectors."""

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from data_lake.schemas import ALL
from data_lake.stage_io import Part
from flows.counting import with_counts
from flows.settings import Settings
from flows.stage_spec import StageRun
from flows.text import log
from flows.work.asking import ask, of_users_only


def profile_domains(run: StageRun) -> None:
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
        return of_users_only(run.settings.enrich.users or None, trained_users(part()))

    parts = [partial(rows, part) for part in run.io.parts("augmented_sequences")]
    ask(run, "profile_domains", "domain_profiles", parts, ("user_id",), profiles, cfg.rows_per_shard)


def profile_users(run: StageRun) -> None:
    from pipeline.profile.profile_users import profile_users, users_to_profile

    cfg = run.settings.profile

    def profiles(users: pa.Table) -> pa.Table:
        return profile_users(users, run.generator, cfg)

    def rows(part: Callable[[], pa.Table]) -> pa.Table:
        return users_to_profile(part())

    parts = [partial(rows, part) for part in run.io.parts("domain_profiles")]
    ask(run, "profile_users", "user_profiles", parts, ("user_id",), profiles, cfg.rows_per_shard)


def profile_scopes(settings: Settings, domains: Sequence[str]) -> list[str]:
    """Return the scopes of the profile vectors that training reads."""
    train = settings.train
    if not (train.pretrain.align_weight or train.finetune.align_weight):
        return []
    return list(domains) if train.aggregate == "gate" else [ALL]


def embed_profiles(run: StageRun) -> None:
    from pipeline.profile.embed_profiles import embed_profiles, profiles_to_embed

    make = with_counts(run.io, lambda rows: embed_profiles(rows, run.embed), run.embed, lambda table: {})
    scopes = profile_scopes(run.settings, run.domains)

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
