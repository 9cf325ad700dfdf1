"""The same id is the same text, however a file keeps it."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import ids
from pipeline.ingest.ids import missing_words, written_otherwise


def read_ids(raw: pl.Series) -> pl.Series:
    return ids.read_ids(raw, ids.all_kept_as_floats(raw))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1000.0, None, 7.0], ["1000", None, "7"]),
        ([float("nan"), float("inf"), 2.5, -0.0], [None, None, "2.5", "0"]),
        ([2e16, 1e22, 2.0**53], ["20000000000000000", "1" + "0" * 22, "9007199254740992"]),
        (["1000.0", "", "7.0"], ["1000", None, "7"]),
        (["1000.0", "B00X"], ["1000.0", "B00X"]),
        (["1.0", "1.10"], ["1.0", "1.10"]),
        ([" a ", "b\t", " "], ["a", "b", None]),
        ([True, None], ["true", None]),
        ([None], [None]),
    ],
)
def test_an_id_is_text_and_a_whole_number_has_no_point(values, expected):
    assert read_ids(pl.Series(values)).to_list() == expected


def test_ids_of_narrow_floats_are_not_made_wider():
    assert read_ids(pl.Series([0.1, 3.0], dtype=pl.Float32)).to_list() == ["0.1", "3"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1))
def test_whole_numbers_are_the_same_ids_as_integers_as_floats_and_as_texts_of_floats(numbers):
    texts = [str(number) for number in numbers]
    assert read_ids(pl.Series(numbers, dtype=pl.Int64)).to_list() == texts
    assert read_ids(pl.Series(numbers, dtype=pl.Float64)).to_list() == texts
    assert read_ids(pl.Series([f"{text}.0" for text in texts])).to_list() == texts


def test_an_id_that_is_written_otherwise_is_found_by_its_number_or_its_letters():
    unknown = pl.Series(["2e+16", "007", "b00x", "1000.50", "nan", "20000000000000001", "new"])
    known = pl.Series(["20000000000000000", "7", "B00X", "1000.5", "x"])
    assert written_otherwise(unknown, known) == {
        "2e+16": "20000000000000000", "007": "7", "b00x": "B00X", "1000.50": "1000.5"
    }  # fmt: skip


def test_words_for_a_missing_value_are_counted_as_they_are_written():
    found = pl.Series(["nan", "NaN", "nan", None, "None", "\\N", "NA", "Nana", "null", "n/a", "u1"])
    assert missing_words(found) == {"NA": 1, "NaN": 1, "None": 1, "\\N": 1, "n/a": 1, "nan": 2, "null": 1}
