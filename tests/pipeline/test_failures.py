import pyarrow as pa
import pytest

from pipeline.llm.failures import Failures


def shard(*reasons: str | None) -> pa.Table:
    return pa.table({"reason": pa.array(reasons, pa.string())})


def counted(allowed: float, *shards: pa.Table) -> Failures:
    failures = Failures(allowed)
    for each in shards:
        failures.add(each)
    return failures


@pytest.mark.parametrize(("bad", "too_many"), [(4, False), (5, True)])
def test_more_than_the_allowed_share_is_too_many(bad, too_many):
    assert counted(0.2, shard(*["cut"] * bad), shard(*[None] * (20 - bad))).too_many is too_many


def test_of_few_rows_all_may_fail():
    assert not counted(0.0, shard(*["cut"] * 19)).too_many
    assert counted(0.0, shard(*["cut"] * 20)).too_many


@pytest.mark.parametrize("reason", ["no_items", "no_profiles", "not_asked"])
def test_rows_that_were_never_asked_do_not_count(reason):
    assert not counted(0.0, shard(*[reason] * 99, *[None] * 20)).too_many
    assert not counted(0.5, shard(*[reason] * 5, *["cut"] * 15)).too_many
    assert counted(0.5, shard(*[reason] * 99, *["cut"] * 11, *[None] * 9)).too_many


def test_the_most_frequent_reasons_are_named_with_their_counts():
    failures = counted(0.2, shard("cut", "timeout", "http_400", None), shard("http_400", "cut", "http_400", "empty"))
    assert str(failures) == "7 of 8 asked rows failed (http_400: 3, cut: 2, timeout: 1)"
