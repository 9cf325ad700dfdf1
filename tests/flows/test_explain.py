"""`edt explain`: one user from history to recommendations."""

import json

import pytest

from flows.explain import explain
from tests.flows.conftest import Place


def an_enriched_user(place: Place) -> str:
    rows = place.lake.read("grounded_items").to_pylist()
    return str(next(row["user_id"] for row in rows if row["kept"]))


def test_it_shows_history_insertions_profiles_and_the_nightly_recommendations(finished: Place) -> None:
    user = an_enriched_user(finished)
    with finished.open() as run:
        found = explain(run, user, None, 3)
    [sequence] = [row for row in finished.lake.read("augmented_sequences").to_pylist() if row["user_id"] == user]
    assert [row["item_id"] for row in found.history] == sequence["item_ids"]
    assert [row["inserted"] for row in found.history] == sequence["synthetic"]
    assert {row["item_id"] for row in found.inserted} == {
        item for item, is_synthetic in zip(sequence["item_ids"], sequence["synthetic"], strict=True) if is_synthetic
    }
    assert set(found.profiles) == {"food", "kitchen", "all"}
    nightly = [row for row in finished.lake.read("recommendations").to_pylist() if row["user_id"] == user]
    best = [row for row in nightly if row["rank"] <= 3]
    assert [(each.domain, each.rank, each.item_id) for each in found.scores] == [
        (row["domain"], row["rank"], row["item_id"]) for row in best
    ]
    assert [each.score for each in found.scores] == pytest.approx([row["score"] for row in best], abs=1e-4)


def test_a_person_reads_titles_parts_and_what_moved_the_score(finished: Place) -> None:
    user = an_enriched_user(finished)
    with finished.open() as run:
        found = explain(run, user, None, 1)
    told = str(found)
    first = found.scores[0]
    assert f"food, 1 of {first.candidates}: {first.item_id} ({first.title})" in told
    assert f"score {first.score:.3f} = shared {first.parts['shared']:.3f} + domain " in told
    most = first.left_out[0]
    assert f"without {most.item_id} ({most.title})" in told


def test_an_unknown_user_ends_the_command_with_1_and_those_nearly_alike(finished: Place) -> None:
    user = an_enriched_user(finished)
    wrong = finished.edt("explain", "--user", f"{user}x")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert f"error: There is no user '{user}x'. Did you mean '{user}'" in wrong.stderr
    right = finished.edt("explain", "--user", user, "--top", "1", "--json")
    assert [each["rank"] for each in json.loads(right.stdout)["scores"]] == [1, 1]
