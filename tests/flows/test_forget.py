"""A user who leaves is in nothing that the lake holds; what nothing current needs can be removed."""

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_lake.errors import UserError
from data_lake.schemas import ARTIFACTS
from flows.clean import clean
from flows.forget import forget_user
from flows.recommend import recommend
from flows.run import RunRequest
from tests.flows.conftest import Place


def first_user(place: Place) -> str:
    """Return a user of whom probes were made."""
    return str(place.lake.read("probes")["real_user_id"][0])


def files_with(folder: Path, text: str) -> list[str]:
    """Return the Parquet and text files under a folder in which a text stands."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        held = str(pq.read_table(path, partitioning=None).to_pydict()) if path.suffix == ".parquet" else ""
        if f"'{text}'" in held or (not held and text.encode() in path.read_bytes()):
            found.append(str(path.relative_to(folder)))
    return found


def test_a_forgotten_user_stands_in_no_file_of_the_lake(place: Place) -> None:
    user = first_user(place)
    assert files_with(place.lake.home, user)
    with place.open() as run:
        forget_user(run, user)
    assert files_with(place.lake.home, user) == []


def test_the_rows_of_all_other_users_stay(place: Place) -> None:
    user, before = first_user(place), place.lake.read("recommendations")
    with place.open() as run:
        forget_user(run, user)
    expected = pl.DataFrame(before).filter(pl.col("user_id") != user)
    assert pl.DataFrame(place.lake.read("recommendations")).equals(expected)


def test_the_model_serves_the_others_and_no_longer_knows_the_user(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    user = first_user(place)
    other = next(each for each in place.lake.read("sequences")["user_id"].to_pylist() if each != user)
    ids = place.folder / "users.txt"
    ids.write_text(f"{user}\n{other}\n")
    with place.open() as run:
        forget_user(run, user)
    served = recommend(RunRequest(config=place.config), None, ids, ())
    assert set(served["user_id"].to_pylist()) == {user, other}
    assert "Users without a known item: 1 of 2." in capsys.readouterr().err


def test_it_says_how_many_training_actions_the_checkpoint_rests_on(place: Place) -> None:
    user = first_user(place)
    sequences = {row["user_id"]: row["splits"] for row in place.lake.read("sequences").to_pylist()}
    with place.open() as run:
        told = str(forget_user(run, user))
    assert f"still rest on {sequences[user].count('train')} training actions" in told


def test_the_next_run_reads_the_same_files_without_the_user(place: Place) -> None:
    user = first_user(place)
    with place.open() as run:
        forget_user(run, user)
    with (place.folder / "interactions.csv").open("a") as file:
        file.write(f"{user},F1,food,2021-01-01T00:00:00Z,5\n")
    assert "finetune" in place.run()
    assert files_with(place.lake.home, user) == []
    assert "forgotten" in place.lake.read("rejects")["reason"].to_pylist()


def test_a_user_whom_nobody_knows_is_named_and_nothing_is_remembered(place: Place) -> None:
    with place.open() as run, pytest.raises(UserError, match="knows no user 'nobody'"):
        forget_user(run, "nobody")
    assert not (place.lake.home / "memory" / "forgotten").exists()


def test_a_second_call_for_a_user_changes_nothing(place: Place) -> None:
    user = first_user(place)
    with place.open() as run:
        forget_user(run, user)
        before = place.contents()
        assert forget_user(run, user).rows == {}
    assert place.contents() == before


def test_an_example_of_the_user_is_shown_no_more(place: Place) -> None:
    user = first_user(place)
    with place.open() as run:
        cache = run.lake.keyed_cache("examples")
        examples = [{"user_id": name, "from": ["a"], "to": ["b"]} for name in (user, "another")]
        cache.put(pa.table({"key": ["pair"], "examples": [json.dumps(examples)]}))
        forget_user(run, user)
        assert json.loads(cache.get(["pair"])["examples"][0].as_py()) == examples[1:]


def test_clean_removes_versions_that_nothing_current_was_made_from(place: Place) -> None:
    place.run(set_=("recommend.top=3",))
    old = place.lake.home / "recommendations" / place.lake.kept_runs("recommendations")[1].fingerprint
    with place.open("recommend.top=3") as run:
        assert [path for path, _ in clean(run, is_dry=True).files] == [old]
        assert old.exists()
        clean(run)
    assert not old.exists()
    assert place.lake.read("recommendations").num_rows


@pytest.mark.slow
def test_clean_keeps_what_a_stale_checkpoint_was_trained_on(place: Place) -> None:
    trained_on = place.lake.manifest("training_set")
    assert trained_on
    place.run(set_=("enrich.budget=1",), to="assemble")
    with place.open() as run:
        clean(run)
    assert [run.fingerprint for run in place.lake.kept_runs("training_set")][1:] == [trained_on.fingerprint]


def test_clean_removes_vectors_of_texts_that_no_artifact_holds(place: Place) -> None:
    with place.open() as run:
        run.models.encoder_with_cache(run.lake.keyed_cache("vectors"))(["nobody says this"])
        assert (clean(run).vectors, clean(run).vectors) == (1, 0)


def test_clean_leaves_the_memories_alone_while_a_stage_is_to_run(place: Place) -> None:
    with place.open("enrich.answers=3") as run:
        assert clean(run).vectors is None


def test_every_artifact_with_users_names_them_in_a_column_that_is_looked_at() -> None:
    of_users = {"user_id", "real_user_id", "user"}
    named = {
        name
        for artifact in ARTIFACTS.values()
        for schema in artifact.tables.values()
        for name in schema.names
        if "user" in name and name != "users"
    }
    assert named == of_users
