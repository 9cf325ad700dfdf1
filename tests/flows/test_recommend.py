"""`edt recommend` and `edt similar`: the model of the lake answers about histories that are given now."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_lake.errors import UserError
from flows.recommend import check_name, format_recommendations, recommend, similar, write
from flows.run import RunRequest


def serve(place, histories=None, users=None, domains=(), overrides=(), **settings):
    request = RunRequest(config=place.config, overrides=overrides)
    return recommend(request, histories, users, domains, **settings)


def test_the_interactions_as_histories_give_the_recommendations_of_the_night(finished):
    assert serve(finished, finished.folder / "interactions.csv") == finished.lake.read("recommendations")


def test_users_alone_are_served_as_they_stand_in_the_lake(finished, tmp_path):
    nightly = finished.lake.read("recommendations")
    (tmp_path / "users.txt").write_text("u02\nu05\n")
    served = serve(finished, users=tmp_path / "users.txt")
    assert served["item_id"].to_pylist() == [
        row["item_id"] for row in nightly.to_pylist() if row["user_id"] in ("u02", "u05")
    ]


def test_a_newcomer_and_todays_clicks_are_served_and_what_is_not_read_is_said(finished, tmp_path, capsys):
    items = finished.lake.read("items")["item_id"].to_pylist()
    rows = [
        {"user_id": "new", "item_id": items[0]}, {"user_id": "u01", "item_id": items[1]},
        {"user_id": "lost", "item_id": "never seen"}, {"user_id": "", "item_id": items[0]},
    ]  # fmt: skip
    (tmp_path / "today.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnonsense\n")
    served = serve(finished, tmp_path / "today.jsonl", top=2)
    assert set(served["user_id"].to_pylist()) == {"new", "u01", "lost"}
    assert set(served["rank"].to_pylist()) == {1, 2}
    assert items[0] not in [row["item_id"] for row in served.to_pylist() if row["user_id"] == "new"]
    said = capsys.readouterr().err
    assert "today.jsonl: rows left out as no_user: 1." in said
    assert "today.jsonl: rows left out as not_json: 1." in said
    assert "Actions on unknown items, not read: 1 of 3 (never seen)." in said
    assert "Users without a known item: 1 of 3. They get what is popular now." in said


def test_what_is_denied_on_the_command_line_is_not_recommended(finished, tmp_path):
    best = serve(finished, finished.folder / "interactions.csv", top=1)["item_id"].unique()
    (tmp_path / "out.txt").write_text("\n".join(best.to_pylist()))
    found = serve(finished, finished.folder / "interactions.csv", deny=tmp_path / "out.txt", top=1)
    assert not set(found["item_id"].to_pylist()) & set(best.to_pylist())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,thing\na,b\n", "no column 'user_id' for user_id. It has user, thing."),
        ("user_id,item_id\n,b\n", r"no action can be read \(no_user 1\)"),
        (None, "no such file"),
    ],
)
def test_a_file_of_histories_that_says_nothing_is_an_error(finished, tmp_path, content, message):
    if content is not None:
        (tmp_path / "h.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        serve(finished, tmp_path / "h.csv")


def test_nobody_to_recommend_to_and_an_unknown_format_are_errors(finished, tmp_path):
    with pytest.raises(UserError, match="Whom to recommend to"):
        serve(finished)
    with pytest.raises(UserError, match=r"Its name must end in \.parquet or \.jsonl"):
        check_name(tmp_path / "lists.xlsx")


def test_lists_are_written_as_parquet_and_as_json_lines(finished, tmp_path):
    table = finished.lake.read("recommendations")
    assert write(table, tmp_path / "lists.parquet").endswith("lists.parquet: 1,000 recommendations for 50 users")
    assert pq.read_table(tmp_path / "lists.parquet") == table
    write(table, tmp_path / "lists.jsonl")
    first = json.loads((tmp_path / "lists.jsonl").read_text().splitlines()[0])
    assert (first["user"], len(first["items"])) == (table["user_id"][0].as_py(), 10)


def test_the_terminal_shows_the_first_users(finished):
    shown = format_recommendations(finished.lake.read("recommendations"))
    assert shown.splitlines()[-1] == "… and 30 more users; --out FILE writes all."
    assert len(shown.splitlines()) == 1 + 20 * 20 + 2
    assert format_recommendations(pa.table({"user_id": pa.array([], pa.string())})) == "No recommendation."


def test_similar_items_stand_per_domain(finished):
    item = finished.lake.read("items")["item_id"][0].as_py()
    rows = similar(RunRequest(config=finished.config), item, 3, ())
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert item not in [row["item_id"] for row in rows]


def test_the_verbs_of_the_command_line_print_results_to_stdout(finished):
    served = finished.edt("recommend", "--histories", "interactions.csv", "--top", "1", "--domain", "food", "--json")
    assert served.returncode == 0, served.stderr
    assert {row["domain"] for row in json.loads(served.stdout)} == {"food"}
    wrong = finished.edt("similar", "--item", "nothing")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "error: There is no item 'nothing'. `edt show items` shows what ids look like." in wrong.stderr
