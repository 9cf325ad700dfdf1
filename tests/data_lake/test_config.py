from collections.abc import Mapping
from typing import ClassVar

import pytest
from pydantic import ValidationError

from data_lake.config import Config


class Section(Config):
    renamed: ClassVar[Mapping[str, str]] = {"id_start": "id_init"}

    id_init: str = "random"


class Extended(Section):
    renamed: ClassVar[Mapping[str, str]] = {"often": "count"}

    count: int = 0


class Whole(Config):
    section: Section = Section()


def test_an_old_name_sets_the_new_one_and_warns():
    with pytest.warns(FutureWarning, match="setting id_start is now called id_init"):
        assert Whole.model_validate({"section": {"id_start": "near"}}).section == Section(id_init="near")


def test_a_class_knows_the_old_names_of_the_class_that_it_extends():
    with pytest.warns(FutureWarning) as warned:
        assert Extended.model_validate({"id_start": "near", "often": 2}) == Extended(id_init="near", count=2)
    assert len(warned) == 2


def test_both_names_together_are_an_error():
    with pytest.raises(ValidationError, match="id_start is the old name of id_init; set id_init alone"):
        Section.model_validate({"id_start": "a", "id_init": "b"})


@pytest.mark.filterwarnings("error")
def test_the_new_name_says_nothing():
    given = {"id_init": "near"}
    assert Section.model_validate(given).id_init == "near"
    assert given == {"id_init": "near"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_was_given_is_left_as_it_was():
    given = {"id_start": "near"}
    Section.model_validate(given)
    assert given == {"id_start": "near"}
