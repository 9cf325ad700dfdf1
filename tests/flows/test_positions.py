"""Every row of what a model read or wrote says what it saw of its user, and what it must not see."""

import json

import pyarrow as pa
import pytest

from data_lake.lake import Stage

POSITIONED = {
    "represent": "representatives", "generate_items": "generated_items", "profile_domains": "domain_profiles",
    "profile_users": "user_profiles",
}  # fmt: skip


def clean(rows):
    return f"{rows:,} of {rows:,} rows saw nothing at or after their first forbidden action"


def test_status_verify_says_of_each_artifact_of_a_model_that_no_row_saw_too_much(finished):
    done = finished.edt("status", "--verify", "--json")
    assert done.returncode == 0, done.stderr
    rows = {artifact: finished.lake.read(artifact).num_rows for artifact in POSITIONED.values()}
    found = {row["stage"]: row["positions"] for row in json.loads(done.stdout) if row["positions"]}
    assert found == {stage: clean(rows[artifact]) for stage, artifact in POSITIONED.items()}
    told = finished.edt("status", "--verify").stdout.splitlines()
    assert told[-4:] == [f"{artifact}: {clean(rows[artifact])}." for artifact in POSITIONED.values()]


def test_show_says_it_of_one_artifact_and_nothing_of_what_no_model_read(finished):
    rows = finished.lake.read("generated_items").num_rows
    assert f"\n{clean(rows)}.\n" in finished.edt("show", "generated_items").stdout
    assert "forbidden action" not in finished.edt("show", "sequences").stdout


def test_rows_of_users_and_of_probes_say_where_they_end(finished):
    sequences = {row["user_id"]: row["splits"] for row in finished.lake.read("sequences").to_pylist()}
    probes = {row["user_id"]: row["splits"] for row in finished.lake.read("probes").to_pylist()}
    assert probes
    for row in finished.lake.read("representatives").to_pylist():
        training = (sequences | probes)[row["user_id"]].count("train")
        shown = min(int(training * 0.8 + 1e-9), training - 1)
        assert (row["seen"], row["forbidden"]) == (shown - 1 if shown else None, shown)
    for row in finished.lake.read("user_profiles").to_pylist():
        assert row["seen"] < row["forbidden"] == sequences[row["user_id"]].count("train")


@pytest.mark.parametrize("arguments", [("status", "--verify"), ("status", "--verify", "--json")])
def test_a_row_that_saw_too_much_is_named_and_fails_status_verify(place, arguments):
    table = place.lake.read("generated_items")
    leaking = table["seen"].to_pylist()
    leaking[1] = table["forbidden"][1].as_py()
    table = table.set_column(table.column_names.index("seen"), "seen", pa.array(leaking, pa.int32()))
    place.lake.run(
        Stage("generate_items", 0, (), ("generated_items",), {}, lambda io: io.write("generated_items", table))
    )
    done = place.edt(*arguments)
    rows, user, position = table.num_rows, table["user_id"][1].as_py(), leaking[1]
    finding = (
        f"{rows - 1:,} of {rows:,} rows saw nothing at or after their first forbidden action; the first that did is of "
        f"user {user}: {position}, forbidden from {position} on"
    )
    assert (done.returncode, finding in done.stdout) == (1, True), done.stdout
    assert done.stderr.startswith(
        "error: generate_items: rows saw what they must not see. Rebuild with --rerun generate"
    )
