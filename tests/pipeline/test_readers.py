"""Files are read row by row without loss: what cannot be read is named with its line."""

import csv
import gzip
import io
import json
import random
import re
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_lake.errors import UserError
from data_lake.progress import Work
from pipeline.ingest import limits, readers


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
    pairs = [tuple(text.replace(",", ";") if "\n" in text else text for text in pair) for pair in pairs]
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


def test_a_column_of_json_is_called_by_a_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"user": 1, "\\ud800": 2}\n')
    assert readers.columns_of(path) == ["user", "?"]
    assert rows(readers.read(path, ["user", "?"]).good) == [("1", None, 1)]


@pytest.mark.parametrize("only_head", [False, True])
def test_a_parquet_file_that_says_more_rows_than_it_has_is_refused(tmp_path, only_head):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": ["a", "b", "c"]}).write_parquet(path)
    footer = b"\x16\x06\x19"  # the number of all rows, 3, before the list of row groups
    data = path.read_bytes()
    assert data.count(footer) == 1
    path.write_bytes(data.replace(footer, b"\x16\x0a\x19"))
    with pytest.raises(UserError, match="it says that it has 5 rows, and has 3"):
        readers.read(path, ["user"], only_head)


def test_a_parquet_file_counts_the_rows_of_each_batch_that_it_has_read(tmp_path, monkeypatch):
    moves = []
    monkeypatch.setattr(readers, "BATCH_ROWS", 2)
    monkeypatch.setattr(Work, "advance", lambda work, n=1: moves.append((work.what, work.total, n)))
    pq.write_table(pa.table({"user": ["a", "b", "c"]}), tmp_path / "a.parquet")
    assert rows(readers.read(tmp_path / "a.parquet", ["user"]).good) == [("a", 1), ("b", 2), ("c", 3)]
    assert moves == [("reading a.parquet", 3, 2), ("reading a.parquet", 3, 1)]


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
        (b"\xff", "a.parquet: column 'id' holds bytes that are no text. Give another column."),
        ({"x": 1}, "a.parquet: column 'id' holds struct<x: int64>, no plain values. Give another column."),
        (timedelta(1), "a.parquet: column 'id' holds duration[us], no plain values. Give another column."),
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
        ("a.csv.gz", gzip.compress(b"a,b\n" * 99999, mtime=0)[:-20], "cannot be unpacked"),
        ("a.csv", b"a,b\r1,2\r", r"a carriage return \(CR\) alone"),
        ("a.jsonl", b'{"a": 1}\r{"a": 2}\r', r"a carriage return \(CR\) alone"),
        ("a.csv", b"a,b,a\n1,2,3\n", "more than one column is called a. Rename"),
        ("a.tsv", b"a\t a \n1\t2\n", "more than one column is called a. Rename"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "it is UTF-16 text"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "it is no text in UTF-8"),
        ("a.csv", b"PK\x03\x04rest", "it is a zip archive or an Excel workbook"),
        ("a.csv", gzip.compress(b"a,b\n", mtime=0), "it is packed by gzip"),
        ("a.jsonl", b'[{"a": 1}, {"a": 2}]', "it is one JSON array"),
        ("a.csv", b"a," * 600_000, r"more than 1,048,576 bytes \(LONGEST_RECORD\)"),
        ("a.csv", ",".join(f"c{n}" for n in range(10_001)).encode(), r"10,001 columns; .* 10,000 .*\(MOST_COLUMNS\)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        readers.columns_of(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'user;item;"a note"\n1;2;"x;y"\n'),
        ("a.csv", "user\titem\ta note\n1\t2\tx;y\n"),
        ("a.csv", "user|item|a note\n1|2|x;y\n"),
        ("ratings.dat", "user::item::a note\n1::2::x;y\n"),
        ("a.txt", "user::item::a note\n1::2::x;y\n"),
        ("a.tsv", 'user,item,a note\n1,2,"x;y"\n'),
        ("a.csv", 'user,item,a note\n1,2,"x;y"\n'),
    ],
)
def test_what_stands_between_the_columns_is_told_by_the_first_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert readers.columns_of(tmp_path / name) == ["user", "item", "a note"]
    found = readers.read(tmp_path / name, ["a note", "user"])
    assert (found.good.rows(), len(found.bad)) == ([("x;y", "1", 2)], 0)


def test_a_mark_inside_a_name_is_no_separator_where_the_usual_one_is_there(tmp_path):
    (tmp_path / "a.csv").write_text("user;id,item|id\n1,2\n")
    assert readers.columns_of(tmp_path / "a.csv") == ["user;id", "item|id"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        readers.columns_of(tmp_path / "none.csv")


def test_a_quote_in_a_tsv_is_a_character_like_any_other(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttitle\n1\t"Best ever snack\n2\tsnack bar 12"\n3\t"quoted"\n\t\n4\n')
    found = readers.read(tmp_path / "a.tsv", ["id", "title"])
    assert rows(found.good) == [
        ("1", '"Best ever snack', 2), ("2", 'snack bar 12"', 3), ("3", '"quoted"', 4), (None, None, 5)
    ]  # fmt: skip
    assert rows(found.bad) == [(6, "wrong_field_count", "4")]


def test_two_stray_quotes_of_a_csv_cost_their_own_lines_only(tmp_path):
    (tmp_path / "a.csv").write_text(
        'id,kind,title\n1,food,"Best ever\n2,food,tea\n3,food,bar 12"\n4,food,"two\nlines"\n'
    )
    found = readers.read(tmp_path / "a.csv", ["id", "title"])
    assert rows(found.good) == [("2", "tea", 3), ("4", "two\nlines", 5)]
    assert [(line, reason) for line, reason, _ in rows(found.bad)] == [(2, "bad_quoting"), (4, "bad_quoting")]


def read_lines(folder, name, separator, records, size):
    """Write records as they are, and return what is read of them in blocks of this size."""
    path = folder / name
    path.write_text(f"a{separator}b{separator}c\n" + "".join(separator.join(each) + "\n" for each in records))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", size)
        return readers.read(path, ["a", "b", "c"])


SIZES = st.sampled_from([3, 17, readers.BLOCK])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.text('ab" {,', max_size=5)] * 3), max_size=20), SIZES)
def test_every_line_of_a_tsv_is_read_as_it_stands(tmp_path_factory, records, size):
    found = read_lines(tmp_path_factory.mktemp("tsv"), "a.tsv", "\t", records, size)
    assert rows(found.good.select("a", "b", "c").fill_null("")) == records
    assert len(found.bad) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text('ab" {', max_size=5), max_size=30), st.integers(0, 2), SIZES)
def test_every_line_of_a_csv_is_one_row_however_quotes_stand_in_a_column(tmp_path_factory, texts, column, size):
    records = [("a",) * column + (text,) + ("c",) * (2 - column) for text in texts]
    found = read_lines(tmp_path_factory.mktemp("lines"), "a.csv", ",", records, size)
    assert sorted([*found.good["line"], *found.bad["line"]]) == list(range(2, len(records) + 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text('ab", '), st.text('ab"\n '), st.text('ab", ')), max_size=8))
def test_what_a_csv_writer_quotes_where_it_must_is_read_as_written(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("a", "b", "c"), *records])
    found = readers.read(path, ["a", "b", "c"])
    assert rows(found.good.select("a", "b", "c").fill_null("")) == records
    assert len(found.bad) == 0


def test_broken_lines_of_json_do_not_become_one_object(tmp_path):
    lines = ['{"user": "a", "note": [{"x": 1}', '{"y": 2}]}', '{"user": "b"},{"user": "c"}', '{"user": "d"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = readers.read(tmp_path / "a.jsonl", ["user"])
    assert rows(found.good) == [("d", 4)]
    assert found.bad["line"].to_list() == [1, 2, 3]


@pytest.mark.parametrize("beside", ["{}", "bad"])
def test_of_a_key_that_an_object_has_twice_the_first_counts(tmp_path, beside):
    (tmp_path / "a.jsonl").write_text(f'{{"user": 1, "user": 2}}\n{beside}\n')
    assert readers.read(tmp_path / "a.jsonl", ["user"]).good["user"][0] == "1"


def test_a_line_that_is_too_long_is_refused_at_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_RECORD", 10)
    (tmp_path / "a.csv").write_text("a,b\n1,123456789\n2," + "x" * 50 + "\n3,y\n" + "é" * 40)
    for size in (1, 7, 30, readers.BLOCK):
        monkeypatch.setattr(readers, "BLOCK", size)
        found = readers.read(tmp_path / "a.csv", ["a", "b"])
        assert rows(found.good) == [("3", "y", 4)]
        assert [(line, reason) for line, reason, _ in rows(found.bad)] == [
            (2, "too_long"), (3, "too_long"), (5, "too_long")
        ]  # fmt: skip


PEAK = """
import resource, sys
from pathlib import Path
from data_lake.errors import UserError
from pipeline.ingest import readers
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    found = readers.read(Path(sys.argv[1]), ["a", "b"])
    print(len(found.good), found.bad["reason"].to_list())
except UserError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("odd", ["{'a': 'y', '': 'x'}", '{"a": ["y"], "": "x"}'])
def test_a_column_without_a_name_is_read_of_lines_of_every_kind(tmp_path, odd):
    (tmp_path / "a.jsonl").write_text(f'{{"a": "1", "": "2"}}\n{odd}\n')
    assert readers.read(tmp_path / "a.jsonl", ["a", ""]).good.rows() == [("1", "2", 1), ("y", "x", 2)]


@pytest.mark.parametrize("line", ["1,2", '1,"2"', '"1",2'])
def test_a_csv_column_without_a_name_is_read(tmp_path, line):
    (tmp_path / "a.csv").write_text(f"a,\n{line}\n")
    assert readers.read(tmp_path / "a.csv", ["a", ""]).good.rows() == [("1", "2", 2)]


def test_a_parquet_column_without_a_name_is_read(tmp_path):
    pq.write_table(pa.table([["1"], ["2"]], names=["a", ""]), tmp_path / "a.parquet")
    assert readers.read(tmp_path / "a.parquet", ["a", ""]).good.rows() == [("1", "2", 1)]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_line_without_an_end_takes_little_memory(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.write(b'{"a": 1, "b": 2}\n' if name == "a.jsonl" else b"a,b\n" if name == "a.csv" else b"a\tb\n")
        file.truncate(256 << 20)
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / name], capture_output=True, text=True, check=True)
    found, peak = done.stdout.splitlines()
    assert found == ("1 ['too_long']" if name == "a.jsonl" else "0 ['too_long']")
    assert int(peak) < 128


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"x\n" * (12 << 20)))
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    found, peak = done.stdout.splitlines()
    assert "more than 100 times its size (MOST_UNPACKED)" in found
    assert int(peak) < 1024


def test_a_small_parquet_file_of_very_many_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREELY_UNPACKED", 1000)
    pq.write_table(pa.table({"a": pa.array([1] * 2_000_000)}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="more than 100 times its size"):
        readers.columns_of(tmp_path / "a.parquet")


def test_dictionaries_decimals_and_extensions_of_a_parquet_file_are_their_values(tmp_path):
    table = pa.table(
        {
            "word": pa.array(["x", None, "x"]).dictionary_encode(),
            "words": pa.array([["x", "y"], None, []], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
            "time": pa.array(["2020-01-01", "2020-01-02", "2020-01-01"]).dictionary_encode(),
            "price": pa.array([Decimal("1000.00"), None, Decimal("2.50")]),
            "json": pa.array(["{}", "1", None], pa.json_()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = readers.read(tmp_path / "a.parquet", table.column_names).good
    assert set(found.drop("line").dtypes) == {pl.String}
    assert found.drop("line").rows() == [
        ("x", "x y", "2020-01-01", "1000.00", "{}"), (None, None, "2020-01-02", None, "1"),
        ("x", "", "2020-01-01", "2.50", None),
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ["Mars/Base", "+02:00", "Europe/Paris", "UTC"])
def test_an_instant_of_a_parquet_file_is_the_same_in_any_zone(tmp_path, zone):
    pq.write_table(pa.table({"time": pa.array([1_500_000_000], pa.timestamp("s", zone))}), tmp_path / "a.parquet")
    assert readers.read(tmp_path / "a.parquet", ["time"]).good["time"].dt.epoch("s").to_list() == [1_500_000_000]


def test_the_folders_around_a_parquet_file_add_the_columns_that_they_name(tmp_path):
    path = tmp_path / "day=2020-01-01" / "domain=food%20shop" / "part-0.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame({"user": ["a", "b"]}).write_parquet(path)
    assert readers.columns_of(path) == ["user", "day", "domain"]
    assert readers.read(path, ["domain", "user"]).good.rows() == [("food shop", "a", 1), ("food shop", "b", 2)]
    assert readers.read(path, ["day"]).good.rows() == [("2020-01-01", 1), ("2020-01-01", 2)]


def test_a_name_that_two_columns_of_a_parquet_file_share_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="more than one column is called id"):
        readers.columns_of(tmp_path / "a.parquet")


def _parquet_bytes(page_version):
    table = pa.table({"id": [f"i{n % 50}" for n in range(300)], "time": list(range(300))})
    table = table.append_column("kind", pa.array(["x", "y", None] * 100).dictionary_encode())
    file = io.BytesIO()
    pq.write_table(table, file, data_page_version=page_version, compression="zstd")
    return file.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["1.0", "2.0"]))
@example(2237, "1.0")  # in which the name of a column is damaged
def test_a_damaged_parquet_file_is_read_or_refused_in_a_sentence(tmp_path_factory, seed, page_version):
    chance = random.Random(seed)
    data = bytearray(_parquet_bytes(page_version))
    for _ in range(chance.choice([1, 2, 20])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    path.write_bytes(data if chance.random() < 0.9 else data[: chance.randrange(len(data))])
    message = ""
    try:
        there = readers.columns_of(path)  # a name may be damaged, too
        readers.read(path, [name for name in ("id", "time", "kind") if name in there])
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
