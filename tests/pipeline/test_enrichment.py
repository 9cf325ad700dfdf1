"""All stages one after the other: nothing of validation and test reaches any of them."""

import pyarrow as pa

from data_lake.schemas import (
    AUGMENTED_SEQUENCES,
    DOMAIN_PROFILES,
    GENERATED_ITEMS,
    GROUNDED_ITEMS,
    PROFILE_EMBEDDINGS,
    REPRESENTATIVES,
    TRAINING_SET,
    USER_PROFILES,
)
from data_lake.tables import check
from pipeline.augment.examples import load_or_choose_examples
from pipeline.augment.generate_items import generate_items, generation_rows, pairs_of
from pipeline.augment.ground import Grounder
from pipeline.augment.insert import insert
from pipeline.augment.noise_filter import Evidence, load_or_learn, pairs_in
from pipeline.augment.represent import represent
from pipeline.config import EnrichConfig, ProfileConfig
from pipeline.profile.clusters import assign_clusters, load_or_fit_centres
from pipeline.profile.embed_profiles import embed_profiles, profiles_to_embed
from pipeline.profile.profile_domains import profile_domains, profile_rows
from pipeline.profile.profile_users import profile_users, users_to_profile
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.embed_items import embed_items
from tests.pipeline.worlds import (
    DOMAINS,
    NO_PROBES,
    Angles,
    Answering,
    DictCache,
    assemble,
    items_table,
    known_of,
    rows_of,
    sequences_table,
)


def enriched(sequences, items):
    """Run every stage over three domains and return all that was made and asked."""
    embed, cache = Angles(), DictCache()
    generator = Answering(lambda question: [f"{question.to_domain} {degree}" for degree in (10, 40, 70)])
    cfg, profile = EnrichConfig(noise_filter=False, budget=2, examples=1), ProfileConfig(clusters=2)
    vectors = embed_items(items, embed)
    catalogue = Catalogue.of(vectors)
    representatives = represent(sequences, catalogue, cfg, DOMAINS)
    examples = load_or_choose_examples(representatives, sequences, pairs_of(cfg, DOMAINS), cfg, DictCache("examples"))
    rows = generation_rows(representatives, pairs_of(cfg, DOMAINS), DOMAINS)
    generated = generate_items(rows, items, generator, cfg, {}, examples)
    assert any(examples.values())
    known = known_of(items, sequences, catalogue, NO_PROBES, cfg.prompt_share)
    grounder, answered = Grounder(known, cfg, DOMAINS), known.answered(generated, representatives)
    evidence = Evidence(
        NO_PROBES, lambda some: grounder.find(some, generated, embed), answered.signals, catalogue, items
    )
    noise_filter = load_or_learn(evidence, pairs_in([generated]), {}, cfg.seed, DictCache("fitted"))
    grounded = grounder.ground(sequences, answered, embed, noise_filter)
    augmented = insert(sequences, grounded, catalogue, cfg, DOMAINS)
    clusters = assign_clusters(catalogue, load_or_fit_centres(catalogue, profile, DOMAINS, cache))
    listed = profile_rows(augmented, clusters, profile.last_items, DOMAINS)
    domain_profiles = profile_domains(listed, items, generator, profile, {})
    user_profiles = profile_users(users_to_profile(domain_profiles), generator, profile)
    profiles = embed_profiles(profiles_to_embed(domain_profiles, user_profiles, (*DOMAINS, "all")), embed)
    made = assemble(augmented, items, vectors, profiles, DOMAINS, 3)
    tables = [representatives, generated, grounded, domain_profiles, user_profiles, profiles]
    return tables, augmented, made, [request.messages for request in generator.requests]


def test_nothing_of_validation_and_test_is_known_to_any_stage():
    items = items_table(food=range(0, 100, 10), kitchen=range(0, 100, 10), garden=range(0, 100, 10))
    train = {"u": "food_0 food_10 food_20 kitchen_10 food_40", "v": "garden_0 garden_10 garden_20 kitchen_0 garden_30"}
    one = enriched(sequences_table(**{user: f"{ids} kitchen_50 garden_60" for user, ids in train.items()}), items)
    other = enriched(sequences_table(**{user: f"{ids} food_80 kitchen_90" for user, ids in train.items()}), items)
    assert one[3] == other[3]  # prompts
    assert one[0] == other[0]  # representatives, answers, thresholds, profiles
    assert one[2]["items"] == other[2]["items"]  # counts
    prefixes = [
        [list(zip(row["item_ids"], row["synthetic"], strict=True))[:-2] for row in made[1].to_pylist()]
        for made in (one, other)
    ]
    assert prefixes[0] == prefixes[1]
    assert (
        sum(synthetic for prefix in prefixes[0] for _, synthetic in prefix) == 6
    )  # 2 * (1 - 0) and 2 * (1 - 3 / 4), twice


def test_a_sentinel_in_validation_or_test_reaches_no_prompt():
    items = items_table(food=range(0, 100, 10), kitchen=range(0, 100, 10), garden=range(0, 100, 10))
    sentinel = items.to_pylist()
    for row in sentinel:
        if row["item_id"] in ("kitchen_50", "garden_60"):
            row["title"] = f"SENTINEL {row['item_id'].split('_')[1]}"
    items = pa.Table.from_pylist(sentinel, schema=items.schema)
    sequences = sequences_table(u="food_0 food_10 food_20 kitchen_10 food_40 kitchen_50 garden_60")
    *_, made, prompts = enriched(sequences, items)
    assert "food 10" in str(prompts)
    assert "SENTINEL" not in str(prompts)
    actions = dict(rows_of(made["items"], "item_id", "train_actions"))
    assert actions["food_40"] == 1
    assert actions["kitchen_50"] == actions["garden_60"] == 0


def test_every_stage_returns_what_its_artifact_allows():
    items = items_table(food=range(0, 100, 10), kitchen=range(0, 100, 10), garden=range(0, 100, 10))
    train = {"u": "food_0 food_10 food_20 kitchen_10 food_40", "v": "garden_0 garden_10 garden_20 kitchen_0 garden_30"}
    histories = {user: f"{ids} kitchen_50 garden_60" for user, ids in train.items()}
    tables, augmented, training_set, _ = enriched(sequences_table(**histories), items)
    artifacts = (
        REPRESENTATIVES, GENERATED_ITEMS, GROUNDED_ITEMS, DOMAIN_PROFILES, USER_PROFILES, PROFILE_EMBEDDINGS,
        AUGMENTED_SEQUENCES,
    )  # fmt: skip
    for table, artifact in zip([*tables, augmented], artifacts, strict=True):
        assert check(table, artifact).num_rows > 0
    assert all(check(table, TRAINING_SET, name).num_rows > 0 for name, table in training_set.items())
