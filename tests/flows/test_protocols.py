"""Where a sample of negatives is the whole domain."""

import doctest

import pytest

from flows import protocols, summary
from flows.protocols import notes_on_protocols
from tests.flows.conftest import Place


def test_the_examples_hold() -> None:
    found = doctest.testmod(protocols)
    assert (found.attempted, found.failed) == (2, 0)


@pytest.mark.parametrize(
    ("candidates", "noted"),
    [
        ({("full", "food"): 50.5, ("sampled-100", "food"): 50.5}, True),
        ({("full", "food"): 101.5, ("sampled-100", "food"): 100.9}, False),  # of some users only
        ({("full", "food"): 5000.0, ("sampled-100", "food"): 101.0}, False),
        ({("full", "food"): 50.5}, False),
    ],
)
def test_a_sample_is_the_full_ranking_where_it_has_as_many_candidates(
    candidates: dict[tuple[str, str], float], noted: bool
) -> None:
    assert bool(notes_on_protocols(candidates)) == noted


def test_the_summary_of_a_run_says_it(finished: Place) -> None:
    assert summary.main_figures(finished.lake).endswith(
        "sampled-100 is the full ranking in food and kitchen, which have fewer items than that."
    )
