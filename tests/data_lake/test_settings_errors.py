import re

import pytest
from pydantic import Field, PositiveInt, ValidationError

from data_lake.config import Config
from data_lake.errors import UserError
from data_lake.settings_errors import parse, problems


class Inner(Config):
    epochs: PositiveInt = 1
    key: str = Field("a", pattern="^a$")


class Outer(Config):
    seed: int
    inner: Inner = Inner()
    domains: dict[str, Inner] = Field(default_factory=dict)
    files: int | dict[str, int] = 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeed": 1, "seed": 1}, "unknown setting seeed; the nearest known one is 'seed'."),
        ({"seed": 1, "epoch": 1}, "unknown setting epoch; the nearest known one is 'epochs' in [inner]."),
        ({"seed": 1, "iner": {}}, "unknown section [iner]; the nearest known one is [inner]."),
        (
            {"seed": 1, "domains": {"food": {"epoch": 1}}},
            "unknown setting [domains.food] epoch; the nearest known one is 'epochs' in [domains.NAME].",
        ),
        ({}, "seed is missing. Set it."),
        ({"seed": 1, "inner": {"epochs": 0}}, "[inner] epochs: input should be greater than 0, not 0."),
        ({"seed": 1, "files": "x"}, "files: input should be a valid integer, unable to parse string as an integer, no"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_the_nearest(given, message):
    with pytest.raises(UserError, match="^" + re.escape(message)) as raised:
        parse(Outer, given)
    assert len(str(raised.value).splitlines()) == 1


def test_a_secret_is_not_shown():
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"seed": 1, "inner": {"key": "sk-1"}})
    assert problems(Outer, raised.value, frozenset({"key"})) == ["[inner] key: string should match pattern '^a$'."]
