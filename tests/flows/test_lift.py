"""What users chose of the answers is told where answers are looked at, and before more are asked for."""

from flows.lift import lift, lift_lines
from flows.show import describe, format_artifact


def test_grounded_items_are_shown_with_how_often_users_chose_such(finished):
    shown = describe(finished.lake, "grounded_items")
    rows = [row for row in finished.lake.read("answer_lift").to_pylist() if row["band"] is None]
    assert {row["source"] for row in rows} == {
        "answers",
        "kept",
        "another user",
        "cooccurrence",
        "popular",
        "retrieval",
    }
    assert [row["share"] for row in shown["lift"]] == [row["share"] for row in rows]
    assert "times_chance" in format_artifact(shown)


def test_the_plan_says_how_often_users_chose_what_was_inserted_last(finished):
    kept = next(row for row in lift(finished.lake) if row["source"] == "kept")
    begins = f"{kept['from_domain']} to {kept['to_domain']}: {kept['users']} users chose {kept['share']:.2%} ["
    assert any(line.startswith(begins) for line in lift_lines(finished.lake))
    printed = finished.edt("plan").stdout
    assert all(line in printed for line in lift_lines(finished.lake))
    assert "users chose" not in finished.edt("plan", "--set", "enrich.generator=none").stdout


def test_the_lift_of_other_answers_is_not_shown(place):
    with place.open("enrich.faithful_quantile=0.9") as run:
        for stage in run.stages:
            if stage.name == "ground":
                run.lake.run(stage)
    assert lift(place.lake) == []
