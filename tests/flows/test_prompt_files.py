"""Prompts are files: each setting of one names a file, and what a file holds is in the fingerprint of its stage."""

from pathlib import Path

import pytest

from data_lake.errors import UserError
from flows.models import Models
from flows.settings import Settings, load_settings
from flows.stages import stages
from pipeline.llm.prompts import load_prompt

SETTINGS = """
dataset = "d"
[data]
interactions = "a.csv"
items = "b.csv"
[describe]
generator = "openai"
[enrich]
generator = "openai"
examples = 1
[llm]
model = "m"
[openai]
base_url = "http://127.0.0.1:1/v1"
"""
READING = {
    "describe_items": {"describe_item", "retry", "retry_text"},
    "generate_items": {"generate_items", "retry", "retry_text", "example"},
    "ground": {"generate_items"},
    "profile_domains": {"profile_domain", "retry", "retry_text"},
    "profile_users": {"profile_user", "retry", "retry_text"},
}
"""Who asks with a text, and `ground`, which measures what answers to a prompt are worth."""


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str = "", **files: str) -> Settings:
        for name, content in files.items():
            (tmp_path / f"{name}.md").write_text(content)
        (tmp_path / "edt.toml").write_text(SETTINGS + text)
        return load_settings(tmp_path / "edt.toml")

    return load


def recipes(settings: Settings) -> dict[str, object]:
    with Models(settings) as models:
        return {stage.name: stage.settings for stage in stages(settings, models)}


def test_a_prompt_is_the_text_of_the_file_that_its_setting_names(load):
    settings = load(
        '[profile]\ndomain_prompt = "d.md"\nuser_prompt = "u.md"\n'
        '[domains.food]\ngenerate_prompt = "g.md"\nprofile_prompt = "d.md"\n',
        d="Of $domain\n---\n$items", u="Merge\n---\n$profiles", g="Name $answers\n---\n$titles",
    )  # fmt: skip
    assert settings.profile.domain_prompt == settings.domains["food"].profile_prompt == "Of $domain\n---\n$items\n"
    assert settings.profile.user_prompt == "Merge\n---\n$profiles\n"
    assert settings.domains["food"].generate_prompt == "Name $answers\n---\n$titles\n"


def test_a_prompt_file_that_is_missing_or_lacks_a_part_is_named(load):
    with pytest.raises(
        UserError, match=r"\[domains\.food\] generate_prompt: .*/no\.md cannot be read as a prompt \(No "
    ):
        load('[domains.food]\ngenerate_prompt = "no.md"\n')
    with pytest.raises(UserError, match=r"\[profile\] user_prompt: a prompt needs exactly one line '---'"):
        load('[profile]\nuser_prompt = "u.md"\n', u="Merge $profiles")


def test_another_text_in_a_prompt_file_makes_the_stages_stale_that_ask_and_that_measure_answers(load):
    text = '[domains.food]\ngenerate_prompt = "g.md"\n'
    before = recipes(load(text, g="Name $answers\n---\n$titles"))
    after = recipes(load(text, g="Name just $answers\n---\n$titles"))
    assert {name for name in before if before[name] != after[name]} == {"generate_items", "ground"}


@pytest.mark.parametrize(
    "name",
    ["describe_item", "generate_items", "profile_domain", "profile_user", "retry", "retry_text", "example"],
)
def test_every_text_of_ours_is_in_the_fingerprints_of_the_stages_that_read_it(load, name):
    found = recipes(load())
    reading = {stage for stage, names in READING.items() if name in names}
    assert {stage for stage in found if load_prompt(name) in texts(found[stage])} == reading


def texts(settings: object) -> list[str]:
    """Return all texts in a stage's settings."""
    if isinstance(settings, dict):
        return [text for value in settings.values() for text in texts(value)]
    return [settings] if isinstance(settings, str) else []
