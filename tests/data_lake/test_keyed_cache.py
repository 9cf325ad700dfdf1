from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from data_lake import keyed_cache as keyed_cache_module
from data_lake.keyed_cache import DamagedPartWarning, KeyedCache


def rows(**texts: str) -> pa.Table:
    return pa.table({"key": list(texts), "text": list(texts.values())})


def test_known_keys_come_back_once_in_the_order_asked(tmp_path: Path) -> None:
    cache = KeyedCache(tmp_path)
    cache.put(rows(a="1", b="2"))
    cache.put(rows(c="3"))
    assert cache.get(["c", "x", "a", "c"]).to_pylist() == [{"key": "c", "text": "3"}, {"key": "a", "text": "1"}]
    assert cache.get(["x"]).num_rows == 0
    assert KeyedCache(tmp_path / "new").get(["a"]).column_names == ["key"]


def test_a_later_row_of_a_key_wins(tmp_path: Path) -> None:
    cache = KeyedCache(tmp_path)
    cache.put(rows(a="old"))
    assert cache.get(["a"])["text"].to_pylist() == ["old"]
    cache.put(rows(a="new"))
    assert cache.get(["a"])["text"].to_pylist() == ["new"]
    assert KeyedCache(tmp_path).get(["a"])["text"].to_pylist() == ["new"]


def test_a_torn_write_is_never_read(tmp_path: Path) -> None:
    cache = KeyedCache(tmp_path)
    cache.put(rows(a="1"))
    complete = next(tmp_path.iterdir()).read_bytes()
    (tmp_path / ".tmp-0123").write_bytes(complete[:50])
    (tmp_path / ".tmp-0123.parquet").write_bytes(complete[:50])
    assert KeyedCache(tmp_path).get(["a"])["text"].to_pylist() == ["1"]


def test_rows_far_into_a_part_are_found(tmp_path: Path) -> None:
    count = 3 * keyed_cache_module.ROWS_PER_GROUP + 5
    KeyedCache(tmp_path).put(pa.table({"key": [f"k{n}" for n in range(count)], "number": range(count)}))
    asked = [count - 1, 0, keyed_cache_module.ROWS_PER_GROUP, 2 * keyed_cache_module.ROWS_PER_GROUP - 1]
    assert KeyedCache(tmp_path).get([f"k{n}" for n in asked])["number"].to_pylist() == asked


def test_many_small_parts_become_one_and_keep_the_later_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_cache_module, "MERGE_AT", 4)
    cache = KeyedCache(tmp_path)
    for number in range(5):
        cache.put(rows(same=str(number), **{f"k{number}": "x"}))
    assert len(list(tmp_path.glob("*.parquet"))) == 2  # four merged, and the fifth
    assert cache.get(["same", "k0", "k4"])["text"].to_pylist() == ["4", "x", "x"]


def test_vectors_of_two_models_share_a_cache(tmp_path: Path) -> None:
    cache = KeyedCache(tmp_path)
    cache.put(pa.table({"key": ["a"], "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}))
    cache.put(pa.table({"key": ["b"], "vector": pa.array([[3.0]], pa.list_(pa.float32(), 1))}))
    assert cache.get(["b"])["vector"].to_pylist() == [[3.0]]
    assert cache.get(["a"]).schema.field("vector").type == pa.list_(pa.float32(), 2)


def test_rows_without_a_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column 'key'"):
        KeyedCache(tmp_path).put(pa.table({"text": ["a"]}))


def test_a_part_with_any_bit_flipped_is_left_out_with_a_word(tmp_path: Path) -> None:
    KeyedCache(tmp_path).put(rows(a="1", b="2"))
    (part,) = tmp_path.iterdir()
    written = part.read_bytes()
    for place in range(0, 8 * len(written), 61):
        flipped = bytearray(written)
        flipped[place // 8] ^= 1 << place % 8
        part.write_bytes(flipped)
        with pytest.warns(DamagedPartWarning, match=r"is not what was written. It is left out"):
            assert KeyedCache(tmp_path).get(["a", "b"]).num_rows == 0
        assert not part.exists()


def test_what_a_damaged_part_held_can_be_put_again(tmp_path: Path) -> None:
    KeyedCache(tmp_path).put(rows(a="1"))
    KeyedCache(tmp_path).put(rows(b="2"))
    sorted(tmp_path.iterdir())[0].write_bytes(b"PAR1")
    cache = KeyedCache(tmp_path)
    with pytest.warns(DamagedPartWarning):
        cache.put(rows(a="3"))
    assert cache.get(["a", "b"])["text"].to_pylist() == ["3", "2"]


def test_a_part_of_an_earlier_version_is_read_and_one_that_is_cut_is_left_out(tmp_path: Path) -> None:
    KeyedCache(tmp_path).put(rows(a="1"))
    (part,) = tmp_path.iterdir()
    earlier = part.rename(tmp_path / "00000000-0123abcd.parquet")
    assert KeyedCache(tmp_path).get(["a"])["text"].to_pylist() == ["1"]
    earlier.write_bytes(earlier.read_bytes()[:50])
    with pytest.warns(DamagedPartWarning, match=r"cannot be read \("):
        assert KeyedCache(tmp_path).get(["a"]).num_rows == 0


def test_a_damaged_part_of_a_lake_that_is_only_read_stays_there(tmp_path: Path) -> None:
    KeyedCache(tmp_path).put(rows(a="1"))
    (part,) = tmp_path.iterdir()
    part.write_bytes(b"")
    tmp_path.chmod(0o500)
    try:
        with pytest.warns(DamagedPartWarning):
            assert KeyedCache(tmp_path).get(["a"]).num_rows == 0
    finally:
        tmp_path.chmod(0o700)


def test_changed_parts_keep_their_order_so_that_the_later_row_still_wins(tmp_path: Path) -> None:
    cache = KeyedCache(tmp_path)
    cache.put(rows(a="old", b="1"))
    cache.put(rows(a="new"))
    assert cache.change(lambda part: part.filter(pc.not_equal(part["key"], "b"))) == 1
    assert cache.all_keys() == KeyedCache(tmp_path).all_keys() == {"a"}
    assert KeyedCache(tmp_path).get(["a", "b"])["text"].to_pylist() == ["new"]


def test_a_dry_change_counts_and_leaves_every_part(tmp_path: Path) -> None:
    cache = KeyedCache(tmp_path)
    cache.put(rows(a="1", b="2"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert cache.change(lambda part: part.slice(0, 0), is_dry=True) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
