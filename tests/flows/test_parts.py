"""A run whose users are dealt into parts makes what one with a single part makes."""

import pyarrow.parquet as pq

from flows.run import make_until
from flows.settings import load_settings
from tests.flows.conftest import Place

PARTED = ("interactions", "sequences", "augmented_sequences", "training_set/sequences", "training_set/users")


def test_users_lie_in_parts_of_the_same_number_from_the_first_stage_to_the_training_set(place: Place) -> None:
    def rows(artifact: str, *by: str) -> list[dict[str, object]]:
        table = place.lake.read(artifact)
        return table.sort_by([(name, "ascending") for name in by]).to_pylist()

    before = {
        "interactions": rows("interactions", "user_id", "position"),
        "augmented_sequences": rows("augmented_sequences", "user_id"),
    }
    settings = load_settings(place.config, ["lake.actions_per_part=400"])
    lake = make_until(settings, "assemble", lambda made: None)
    users = {}
    for name in PARTED:
        artifact, _, table = name.partition("/")
        files = sorted((lake.path(artifact) / table).glob("*.parquet"))
        column = "user" if name == "training_set/sequences" else "user_id"
        users[name] = [pq.read_table(path, columns=[column])[column].unique().to_pylist() for path in files]
    assert len(users["interactions"]) == 3
    by_part = [sorted(part) for part in users["interactions"]]
    assert [users[name] for name in ("sequences", "augmented_sequences", "training_set/users")] == [by_part] * 3
    assert [number for part in users["training_set/sequences"] for number in part] == list(range(1, 51))
    assert rows("interactions", "user_id", "position") == before["interactions"]
    assert rows("augmented_sequences", "user_id") == before["augmented_sequences"]
