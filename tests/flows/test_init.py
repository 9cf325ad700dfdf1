"""`edt init`: files that nobody has described yet, and what their settings say."""

from pathlib import Path

import pytest

from data_lake.errors import UserError
from flows.init import parse_columns, told_by_looking, write_settings
from flows.settings import load_settings
from tests.flows.conftest import Place
from tests.pipeline.whole_ingest import ingest_whole as ingest

ACTIONS = "customer;sku;date\nu1;f1;2020-01-01\nu1;k1;2020-01-02\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "actions.csv").write_text(ACTIONS)
    (tmp_path / "items.dat").write_text("sku::category::name\nf1::food::Tea\nk1::kitchen::Pan\n")
    for domain, item in (("food", "f1"), ("kitchen", "k1")):
        (tmp_path / f"{domain}.csv").write_text(f"who|sku|date\nu1|{item}|2020-01-01\n")
        (tmp_path / f"{domain}-items.csv").write_text(f"sku,name\n{item},Tea\n")
    return tmp_path


def written(
    folder: Path, *files: str, by_domain: tuple[str, ...] = (), columns: tuple[str, ...] = ()
) -> dict[str, str]:
    """Write settings for these files, and return what could not be told."""
    given = parse_columns(columns)
    paths = [folder / file for file in files]
    return write_settings(folder / "edt.toml", *told_by_looking(paths, [], [], by_domain, given), columns=given)


def test_files_are_told_apart_and_their_settings_are_taken_by_ingest(folder: Path) -> None:
    assert written(folder, "items.dat", "actions.csv") == {}
    settings = load_settings(folder / "edt.toml")
    assert ingest(settings.data).interactions["domain"].to_pylist() == ["food", "kitchen"]


def test_several_files_of_a_kind_are_listed(folder: Path) -> None:
    (folder / "more.csv").write_text(ACTIONS.replace("u1", "u2"))
    written(folder, "actions.csv", "more.csv", "items.dat")
    assert 'interactions = ["actions.csv", "more.csv"]' in (folder / "edt.toml").read_text()
    assert ingest(load_settings(folder / "edt.toml").data).interactions.num_rows == 4


def test_files_by_domain_with_a_column_named_are_taken_by_ingest(folder: Path) -> None:
    names = [f"{domain}={folder / domain}{end}" for domain in ("food", "kitchen") for end in (".csv", "-items.csv")]
    assert written(folder, by_domain=tuple(names), columns=("user_id=who",)) == {}
    text = (folder / "edt.toml").read_text()
    assert 'interactions = {food = "food.csv", kitchen = "kitchen.csv"}' in text
    assert 'user_id = "who"  # given as --column user_id' in text
    assert ingest(load_settings(folder / "edt.toml").data).items["domain"].to_pylist() == ["food", "kitchen"]


def test_what_cannot_be_told_is_a_line_to_fill_in_and_the_command_says_so(folder: Path, finished: Place) -> None:
    (folder / "items.dat").write_text("sku::name\nf1::Tea\nk1::Pan\n")
    out = folder / "edt.toml"
    done = finished.edt("init", str(folder / "actions.csv"), str(folder / "items.dat"), "--out", str(out))
    assert done.returncode == 1
    assert f"not told: items.domain: no column of {folder / 'items.dat'} looks like domain: sku, name." in done.stderr
    assert f"error: {out} does not run yet. Complete its lines with 'TO FILL IN:'" in done.stderr
    [line] = [line for line in out.read_text().splitlines() if "TO FILL IN" in line]
    assert line.startswith(
        f'# domain = ""  # TO FILL IN: no column of {folder / "items.dat"} looks like domain: sku, name.'
    )
    load_settings(out)


def test_what_is_not_needed_and_cannot_be_told_is_a_commented_line(folder: Path) -> None:
    (folder / "items.dat").write_text("sku::category::Bezeichnung\nf1::food::Tea\nk1::kitchen::Pan\n")
    assert written(folder, "actions.csv", "items.dat") == {}
    lines = (folder / "edt.toml").read_text().splitlines()
    assert f'# title = ""  # no column of {folder / "items.dat"} looks like it' in lines
    assert f'# rating = ""  # no column of {folder / "actions.csv"} looks like it' in lines


@pytest.mark.parametrize(
    ("files", "by_domain", "message"),
    [
        (("actions.csv",), (), "No file of items is given. By their columns the given ones are of the other kind."),
        (("items.dat",), (), "No file of interactions is given."),
        ((), (), "No file of interactions is given. Name it with --interactions"),
        (("actions.csv", "items.dat"), ("food=actions.csv",), "are given with --domain and without"),
        ((), ("food",), "--domain food: write it as NAME=FILE"),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], by_domain: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        written(folder, *files, by_domain=by_domain)


def test_a_column_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="--column user_id: write it as OURS=THEIRS"):
        parse_columns(["user_id"])
