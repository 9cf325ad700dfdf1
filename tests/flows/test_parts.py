"""A run whose users are dealt into parts makes what one with a single part makes."""

import pyarrow.parquet as pq

from flows.run import make_until
from flows.settings import load_settings
from tests.flows.conftest import Place

PARTED = (
    "interactions", "sequences", "augmented_sequences", "domain_profiles", "user_profiles", "profile_embeddings",
    "training_set/sequences", "training_set/users",
)  # fmt: skip
WITH_PROBES = ("representatives", "generated_items", "grounded_items")


def test_users_lie_in_parts_of_the_same_number_from_the_first_stage_to_the_training_set(place: Place) -> None:
    def rows(artifact: str, *by: str) -> list[dict[str, object]]:
        table = place.lake.read(artifact)
        return table.sort_by([(name, "ascending") for name in by]).to_pylist()

    sorted_by = {
        "interactions": ("user_id", "position"),
        "representatives": ("user_id", "domain"),
        "generated_items": ("user_id", "from_domain"),
        "grounded_items": ("user_id", "from_domain", "answer_index"),
        "augmented_sequences": ("user_id",),
        "domain_profiles": ("user_id", "domain"),
        "user_profiles": ("user_id",),
    }
    before = {artifact: rows(artifact, *by) for artifact, by in sorted_by.items()}
    settings = load_settings(place.config, ["lake.actions_per_part=400"])
    lake = make_until(settings, "assemble", lambda made: None)
    users = {}
    for name in (*PARTED, *WITH_PROBES):
        artifact, _, table = name.partition("/")
        files = sorted((lake.path(artifact) / table).glob("*.parquet"))
        column = "user" if name == "training_set/sequences" else "user_id"
        users[name] = [pq.read_table(path, columns=[column])[column].unique().to_pylist() for path in files]
    assert len(users["interactions"]) == 3
    by_part = [sorted(part) for part in users["interactions"]]
    assert {name: [sorted(part) for part in users[name]] for name in PARTED if name != "training_set/sequences"} == {
        name: by_part for name in PARTED if name != "training_set/sequences"
    }
    assert [number for part in users["training_set/sequences"] for number in part] == list(range(1, 51))
    probes = place.lake.read("probes")["user_id"].to_pylist()
    assert [sorted(part) for part in users["representatives"]] == [*by_part, sorted(probes)]
    for name in ("generated_items", "grounded_items"):
        assert all(set(part) <= set(all_of) for part, all_of in zip(users[name], users["representatives"], strict=True))
    assert {artifact: rows(artifact, *by) for artifact, by in sorted_by.items()} == before
