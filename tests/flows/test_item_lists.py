"""What may be recommended every night."""

import pytest

from data_lake.errors import UserError


def recommended(place):
    return set(place.lake.read("recommendations")["item_id"].to_pylist())


def test_what_is_out_of_stock_is_not_recommended_and_another_content_makes_the_stage_stale(place):
    before = sorted(recommended(place))
    place.config.write_text(place.config.read_text() + '[recommend]\ndeny = "out.txt"\n')
    (place.folder / "out.txt").write_text("\n".join(before[:5]))
    assert place.run() == ["recommend"]
    assert not recommended(place) & set(before[:5])
    assert place.run() == []
    (place.folder / "out.txt").write_text("\n".join(before[5:9]))
    assert place.run() == ["recommend"]
    assert recommended(place) >= set(before[:5])
    assert not recommended(place) & set(before[5:9])


def test_a_list_that_is_missing_stops_the_run_before_anything_is_made(fresh_place):
    with pytest.raises(UserError, match=r"Stage 'recommend' needs .*out\.txt, which is not there"):
        fresh_place.run(set_=(f"recommend.deny={fresh_place.folder}/out.txt",))
    assert fresh_place.lake.manifest("interactions") is None
