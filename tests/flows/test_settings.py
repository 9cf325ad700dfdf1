import re
import traceback
from pathlib import Path

import pytest

from data_lake.errors import UserError
from flows.settings import Settings, load_settings

LEAST = 'dataset = "d"\n[data]\ninteractions = "a.csv"\nitems = "b.csv"\n'


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, *overrides: str) -> Settings:
        (tmp_path / "edt.toml").write_text(text)
        return load_settings(tmp_path / "edt.toml", overrides)

    return write


def test_a_key_in_place_of_the_name_of_its_variable_is_not_shown(write):
    key = "sk-s3cret"
    with pytest.raises(UserError, match=r"\[openai\] key_variable: string should match pattern") as raised:
        write(LEAST + f'[openai]\nkey_variable = "{key}"\n')
    assert key not in "".join(traceback.format_exception(raised.value))  # a flow logs it whole


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "[" * 10_000, "not a TOML file: maximum recursion depth"),
        ("a = " + "{a=" * 10_000, "not a TOML file: maximum recursion depth"),
        ("a = " + "1" * 5000, "not a TOML file: Exceeds the limit"),
        ("a." * 10_000 + "a = 1", "not a TOML file: a key has more than 32 parts"),
        ("a = " + "{a=" * 40 + "1" + "}" * 40, "not a TOML file: more than 32 sections stand inside each other"),
        ("a." * 70_000 + "a = 1", "it has 140,005 bytes; settings have 131,072 at most"),
    ],
)
def test_a_file_that_takes_the_reader_of_toml_too_far_is_refused(write, text, reason):
    with pytest.raises(UserError, match=reason):
        write(text)


@pytest.mark.parametrize("value", ["[" * 10_000, "1" * 5000])
def test_a_value_that_takes_the_reader_of_toml_too_far_is_a_text(write, value):
    assert write(LEAST, f"llm.model={value}").llm.model == value


@pytest.mark.parametrize("path", ["x" * 5000, "\\u0000"])
@pytest.mark.parametrize("key", ["data.items", "lake.root", "profile.domain_prompt", "split.test_queries"])
def test_a_text_that_can_be_no_path_is_refused(write, key, path):
    with pytest.raises(UserError, match="in the settings can be no path"):
        write(LEAST, f'{key}="{path}"')


def test_paths_are_relative_to_the_settings_file(write, tmp_path):
    settings = write(LEAST)
    assert settings.data.interactions == tmp_path / "a.csv"
    assert settings.lake.root == str(tmp_path / "data_lake" / "store")


def test_files_per_domain_are_relative_to_the_settings_file_too(write, tmp_path):
    settings = write('dataset = "d"\n[data]\ninteractions = {food = "f.csv"}\nitems = ["b.csv", "/c.csv"]\n')
    assert settings.data.interactions == {"food": tmp_path / "f.csv"}
    assert settings.data.items == (tmp_path / "b.csv", Path("/c.csv"))


def test_files_of_queries_are_relative_to_the_settings_file_too(write, tmp_path):
    split = '[split]\nby = "queries"\nvalidation_queries = "v.csv"\ntest_queries = ["t.csv"]\n'
    settings = write(LEAST + split)
    assert settings.split.sources() == [tmp_path / "v.csv", tmp_path / "t.csv"]


def test_the_release_preset_places_inserted_items_after_the_most_similar_unless_told_otherwise(write):
    released = "train.preset=release"
    assert write(LEAST, released).enrich.place == "similar"
    assert write(LEAST, released, "enrich.place=before_last").enrich.place == "before_last"
    assert write(LEAST).enrich.place == "before_last"


def test_a_split_by_time_needs_real_times(write):
    with pytest.raises(UserError, match=re.escape('[split] by = "time" needs real times, and [data] times is "order"')):
        write(LEAST + 'times = "order"\n[split]\nby = "time"\n')


def test_a_model_that_is_a_folder_beside_the_settings_is_found_there(write, tmp_path):
    (tmp_path / "models").mkdir()
    settings = write(LEAST + '[llm]\nmodel = "models"\n')
    assert settings.llm.model == str(tmp_path / "models")
    assert write(LEAST + '[llm]\nmodel = "org/name"\n').llm.model == "org/name"
    assert write(LEAST).llm.model == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nseeed = 1\n", "unknown setting [train] seeed; the nearest known one is 'seed' in [train]."),
        (
            "[train]\nepoch = 1\n",
            "unknown setting [train] epoch; the nearest known one is 'epochs' in [train.pretrain].",
        ),
        (
            "[train.pretrian]\nepochs = 1\n",
            "unknown section [train.pretrian]; the nearest known one is [train.pretrain].",
        ),
        ("[enrihc]\ngenerator = 'none'\n", "unknown section [enrihc]; the nearest known one is [enrich]."),
        (
            "[domains.food]\ndescribes = 'x'\n",
            "unknown setting [domains.food] describes; the nearest known one is 'describe' in [domains.NAME].",
        ),
        ("[lake]\nqqqq = 1\n", "unknown setting [lake] qqqq."),
        ("[enrich]\npairs = [['food']]\n", "[enrich] pairs: field required, not ['food']."),
        ("[lake]\nkeep = 'many'\n", "[lake] keep: input should be a valid integer"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_the_nearest(write, tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/edt.toml: {message}")):
        write(LEAST + text)


def test_every_wrong_setting_is_told_at_once_and_once(write):
    with pytest.raises(UserError) as error:
        write('dataset = "d"\n[data]\ninteractions = 5\n[train]\nseed = "x"\n')
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "[data] interactions: " in lines[0]
    assert "[data] items is missing" in lines[1]
    assert "[train] seed: " in lines[2]


def test_overrides_are_toml_values_or_bare_strings(write):
    overrides = (
        "train.pretrain.epochs=2",
        "enrich.generator=none",
        'domains."pet food".describe=for cats',
        "dataset=7a",
    )
    settings = write(LEAST, *overrides)
    assert settings.train.pretrain.epochs == 2
    assert settings.enrich.generator == "none"
    assert settings.domains["pet food"].describe == "for cats"
    assert settings.dataset == "7a"


@pytest.mark.parametrize("override", ["train.seed", "=1", "train=1", "a b=1"])
def test_an_override_that_is_none_is_refused(write, override):
    with pytest.raises(UserError, match=re.escape(f"--set {override}: ")):
        write(LEAST + "[train]\nseed = 1\n", override)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_a_dataset_cannot_leave_the_lake(write, name):
    with pytest.raises(UserError, match="dataset"):
        write(LEAST, f'dataset="{name}"')


def test_a_missing_settings_file_says_how_to_write_one(tmp_path):
    with pytest.raises(UserError, match="edt init"):
        load_settings(tmp_path / "edt.toml")


def test_lists_of_items_to_recommend_are_relative_to_the_settings_file_too(write, tmp_path):
    recommend = write(LEAST + '[recommend]\nallow = "in-stock.txt"\n').recommend
    assert recommend.sources() == [tmp_path / "in-stock.txt"]


def test_only_the_presence_of_a_list_is_among_the_settings_of_the_fingerprint(write):
    assert write(LEAST, "recommend.deny=a.txt").recommend.as_fingerprint()["deny"] is True
    assert not write(LEAST).recommend.as_fingerprint().keys() & {"allow", "deny"}
