"""Histories of other users, in files of their own, go the whole way: evaluated and recommended to, never enriched."""

import polars as pl
import pyarrow.compute as pc
import pytest

from data_lake.schemas import SPLITS
from pipeline.sample_world.simulate import SimulateConfig
from tests.flows.by_default import ON_BY_DEFAULT

USERS, QUERIES = 40, 10
SETTINGS = """
dataset = "tiny"
[data]
interactions = "trained.csv"
items = "items.csv"
times = "order"
[split]
by = "queries"
validation_queries = "validation.csv"
test_queries = ["test.csv"]
[enrich]
generator = "retrieval"
noise_filter = false
[train]
threads = 1
network.hidden = 16
pretrain.epochs = 1
finetune.epochs = 1
[evaluate]
protocols = ["full"]
resamples = 20
"""


@pytest.fixture(scope="module")
def asked(new_place, tmp_path_factory):
    """A world whose first users are the queries: the files have no times, and rows in the order of each user."""
    place = new_place(tmp_path_factory.mktemp("asked"), SimulateConfig(users=USERS, items=40))
    actions = pl.read_csv(place.folder / "interactions.csv").sort("user_id", "timestamp", maintain_order=True)
    users = actions["user_id"].unique().sort().to_list()
    parts = {"validation": users[:QUERIES], "test": users[QUERIES : 2 * QUERIES], "trained": users[2 * QUERIES :]}
    for name, mine in parts.items():
        rows = actions.filter(pl.col("user_id").is_in(mine)).drop("timestamp")
        rows.write_csv(place.folder / f"{name}.csv")
    (place.folder / "edt.toml").write_text(SETTINGS)
    assert place.run() == list(ON_BY_DEFAULT)
    return place, parts


def test_each_query_has_one_target_and_the_others_are_trained_on_whole(asked):
    place, parts = asked
    sequences = pl.from_arrow(place.lake.read("sequences"))
    roles = {user: set(splits) for user, splits in sequences.select("user_id", "splits").iter_rows()}
    for name in ("validation", "test"):
        assert all(roles[user] == {"context", name} for user in parts[name])
    assert all(roles[user] == {"train"} for user in parts["trained"])
    ranks = place.lake.read("ranks")
    for name in ("validation", "test"):
        assert set(ranks.filter(pc.field("split") == name)["user_id"].to_pylist()) == set(parts[name])


def test_queries_are_not_enriched(asked):
    place, parts = asked
    queries = {*parts["validation"], *parts["test"]}
    for artifact in ("generated_items", "grounded_items", "domain_profiles", "user_profiles", "profile_embeddings"):
        users = set(place.lake.read(artifact)["user_id"].to_pylist())
        assert users
        assert not users & queries
    augmented = pl.from_arrow(place.lake.read("augmented_sequences"))
    synthetic = augmented.filter(pl.col("user_id").is_in(list(queries)))["synthetic"].explode()
    assert not synthetic.any()
    assert augmented["synthetic"].explode().any()


def test_only_what_is_trained_on_is_counted_and_everybody_gets_recommendations(asked):
    place, parts = asked
    info = place.lake.read("training_set", "info").to_pylist()[0]
    assert info["times"] == "order"
    trained = pl.read_csv(place.folder / "trained.csv")
    assert pc.sum(place.lake.read("training_set", "items")["train_actions"]).as_py() == len(trained)
    splits = pc.list_flatten(place.lake.read("training_set", "sequences")["splits"]).to_pylist()
    assert splits.count(SPLITS.index("validation")) == splits.count(SPLITS.index("test")) == QUERIES
    users = set(place.lake.read("recommendations")["user_id"].to_pylist())
    assert users == {user for mine in parts.values() for user in mine}


def test_nothing_is_made_again_until_a_file_of_queries_changes(asked):
    place, _ = asked
    assert place.run() == []
    file = place.folder / "test.csv"
    file.write_text(file.read_text() + "known,unknown,food,\n")
    assert place.run(to="split")[0] == "ingest"
