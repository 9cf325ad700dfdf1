"""Files are read row by row without loss: what cannot be read is named with its line."""

import gzip
import json
import re
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_lake.errors import UserError
from pipeline.ingest import readers


def rows(frame):
    return frame.rows()


def test_a_csv_keeps_its_good_lines_and_names_its_bad_ones(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbfuser,item,note\r\n"
        b'a,1,"said ""hi"", twice"\r\n'
        b"b,2\n"
        b"\n"
        b'c,3,"two\nlines"\n'
        b'd,4,5" pipe\n'
        b"e,\xff,6\n"
        b'f,"7,8\n'
        b'g,9,""\n'
    )
    found = readers.read(path, ["user", "item", "note"])
    assert rows(found.good) == [
        ("a", "1", 'said "hi", twice', 2),
        ("c", "3", "two\nlines", 5),
        ("d", "4", '5" pipe', 7),
        ("g", "9", None, 10),
    ]
    assert rows(found.bad) == [
        (3, "wrong_field_count", "b,2"),
        (8, "undecodable", "e,\ufffd,6"),
        (9, "bad_quoting", 'f,"7,8'),
    ]


def test_json_lines_keep_their_good_lines_and_read_python_dicts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"user": "a", "item": 1, "note": ["x", "y"]}\n'
        b'{"user": "b"\n'
        b"{'user': \"it's\", 'item': 3}\n"
        b'{"user": "c"},{"user": "d"}\n'
        b"\n"
        b"[1]\n"
        b'{"user": "\xff"}\n'
        b'{"user": "e", "note": null}'
    )
    found = readers.read(path, ["user", "item", "note"])
    assert rows(found.good) == [("a", "1", "x y", 1), ("it's", "3", None, 3), ("e", None, None, 8)]
    assert [(line, reason) for line, reason, _ in rows(found.bad)] == [
        (2, "not_json"), (4, "not_json"), (6, "not_json"), (7, "undecodable")
    ]  # fmt: skip


def test_lines_and_quoted_records_across_blocks_are_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b'user,note\na,1\nb,"two\nand\nthree"\nc,4\nd,"open\n'))
    whole = readers.read(path, ["user", "note"])
    assert rows(whole.good) == [("a", "1", 2), ("b", "two\nand\nthree", 3), ("c", "4", 6)]
    assert rows(whole.bad) == [(7, "bad_quoting", 'd,"open')]
    for size in range(1, 30):
        monkeypatch.setattr(readers, "BLOCK", size)
        parts = readers.read(path, ["user", "note"])
        assert (rows(parts.good), rows(parts.bad)) == (rows(whole.good), rows(whole.bad))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), max_size=8))
def test_a_csv_that_quotes_everything_is_read_as_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    pairs = [tuple(text.replace("\r", "").strip() or "x" for text in pair) for pair in pairs]
    body = "".join(",".join('"' + text.replace('"', '""') + '"' for text in pair) + "\n" for pair in pairs)
    path.write_bytes(("a,b\n" + body).encode())
    found = readers.read(path, ["a", "b"])
    assert rows(found.good.select("a", "b")) == pairs
    assert len(found.bad) == 0


def test_a_bad_line_among_many_costs_only_itself(tmp_path):
    lines = [json.dumps({"user": f"u{number}"}) for number in range(3000)]
    lines[1234] = lines[1234][:-1]
    path = tmp_path / "a.ndjson"
    path.write_text("\n".join(lines))
    found = readers.read(path, ["user"])
    assert found.good["line"].to_list() == [number + 1 for number in range(3000) if number != 1234]
    assert rows(found.bad) == [(1235, "not_json", '{"user": "u1234"')]


@pytest.mark.parametrize(
    ("number", "text"),
    [("5", "5"), ("5.0", "5"), ("-5.0", "-5"), ("2.5", "2.5"), ("1.6e9", "1600000000"), ("1e22", "1" + "0" * 22),
     ("0.00001", "0.00001")],
)  # fmt: skip
@pytest.mark.parametrize("beside", ["{}", "bad", '{"user": [1]}'])
def test_a_number_is_the_same_text_whatever_stands_beside_it(tmp_path, number, text, beside):
    (tmp_path / "a.jsonl").write_text(f'{{"user": {number}}}\n{beside}\n')
    assert readers.read(tmp_path / "a.jsonl", ["user"]).good["user"][0] == text


def test_parquet_rows_are_counted_from_one(tmp_path):
    pl.DataFrame({"user": ["a", "b"], "time": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    assert readers.read(tmp_path / "a.parquet", ["user", "time"]).good.select("user", "time", "line").rows() == [
        ("a", 1, 1), ("b", 2, 2)
    ]  # fmt: skip


def test_lists_and_bytes_of_a_parquet_file_are_text(tmp_path):
    pl.DataFrame({"id": [b"a", None], "note": [["x", None, "y"], []]}).write_parquet(tmp_path / "a.parquet")
    found = readers.read(tmp_path / "a.parquet", ["id", "note"]).good
    assert found.select("id", "note").rows() == [("a", "x y"), (None, "")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xff", "a.parquet: cannot be read as Parquet (invalid utf8)."),
        ({"x": 1}, "a.parquet: column 'id' holds Struct({'x': Int64}), no plain values. Give another column."),
        (timedelta(1), "a.parquet: column 'id' holds Duration(time_unit='us'), no plain values. Give another column."),
    ],
)
def test_a_parquet_column_that_is_no_text_number_or_time_is_refused(tmp_path, value, message):
    pl.DataFrame({"id": [value]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=re.escape(message)):
        readers.read(tmp_path / "a.parquet", ["id"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"", "what format is it"),
        ("a.csv", b"\n", "must name the columns"),
        ("a.parquet", b"no parquet", "cannot be read as Parquet"),
        ("a.jsonl", b"a,b\n", "no JSON object"),
        ("a.csv.gz", gzip.compress(b"a,b\n" * 99999)[:-20], "cannot be unpacked"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        readers.columns_of(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        readers.columns_of(tmp_path / "none.csv")
