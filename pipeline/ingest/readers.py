"""Read CSV, JSON lines and Parquet into columns, keeping what cannot be read with its line and the reason.

Text files are read in blocks and taken apart by column expressions, so that every row knows its true line and a bad
line costs only itself. Python looks at single lines only in a stretch that holds a bad one. The limits below keep a
damaged or hostile file from taking the machine's memory.
"""

import ast
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.messages import escape_control
from data_lake.progress import progress
from pipeline.ingest import parquet
from pipeline.ingest.limits import LONGEST_LITERAL, LONGEST_RECORD, RECORD_LINES, check_columns, check_unpacked

BLOCK = 1 << 22
HEAD = 1 << 20
HEAD_ROWS = 1000
JSON_ROWS = 50_000
BATCH_ROWS = 1 << 20
GZIP_SIZE = 4
"""Bytes at the end of a gzip file that tell how long it is unpacked."""
STRAY = 0.75
"""Share of the lines between two quotes that are records themselves, above which the quotes are taken for stray."""
ROW_CHARACTERS = 500

ENDINGS = {
    ".csv": "csv", ".txt": "csv", ".dat": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
SEPARATORS = {"csv": ",", "tsv": "\t"}
"""What stands between the columns of a text file, by its name; see `separator_of`."""
OTHER_SEPARATORS = ("::", ";", "\t", "|", ",")
"""What may stand there instead, where the first line shows it."""
QUOTING = frozenset({",", ";", "|"})
"""Separators between fields that may be quoted; with others a quote is a character like any other."""

_OTHER_FORMS = {
    b"PK\x03\x04": "a zip archive or an Excel workbook", b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "Parquet, as a name ending in .parquet tells",
    b"\x1f\x8b": "packed by gzip, as a name ending in .gz tells",
    b"BZh": "packed by bzip2", b"\xfd7zXZ": "packed by xz", b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
}  # fmt: skip

_MARK = "line number of LLM-EDT"
_BAD = pl.Schema({"line": pl.Int64, "reason": pl.String, "row": pl.String})


@dataclass(frozen=True)
class Rows:
    """`good`: the columns that were asked for, as text (Parquet: as typed, bytes and lists as text), and `line`.

    `bad`: line, reason, row.
    """

    good: pl.DataFrame
    bad: pl.DataFrame


def kind_of(path: Path) -> str:
    """Return "csv", "tsv", "json" or "parquet", by the name's ending."""
    kind = ENDINGS.get(Path(path.name.lower().removesuffix(".gz")).suffix, "")
    if not kind or (kind == "parquet" and path.name.lower().endswith(".gz")):
        raise UserError(f"{path}: what format is it? Its name must end in {', '.join(ENDINGS)} (text files also .gz).")
    if not path.is_file():
        raise UserError(f"{path}: no such file. Correct the path in [data].")
    return kind


def columns_of(path: Path) -> list[str]:
    """Return the columns of a file; those of JSON lines are the keys of the objects at its head."""
    kind = kind_of(path)
    if kind == "parquet":
        return check_columns(path, parquet.columns_of(path))
    block, _ = head(path)
    _check_form(path, block)
    first = block.split(b"\n", 1)[0]
    if kind in SEPARATORS:
        return _header(path, first)[0]
    found = (_parse(line.decode("utf-8", "replace")) for line in block.split(b"\n", HEAD_ROWS)[:HEAD_ROWS])
    columns = list(dict.fromkeys(_as_text(key) or "" for each in found if each for key in each))
    if not columns:
        is_array = block.lstrip().startswith(b"[")
        what = "it is one JSON array" if is_array else "no JSON object in its first lines"
        raise UserError(f"{path}: {what}. Each line must hold one object.")
    return columns


def read(path: Path, columns: Sequence[str], only_head: bool = False) -> Rows:
    """Read `columns`, which the file has, and the line (Parquet: row) of each row, counted from 1."""
    if not only_head:
        return _together(list(batches(path, columns)))
    kind = kind_of(path)
    if kind == "parquet":
        return Rows(parquet.read_head(path, columns, HEAD_ROWS), pl.DataFrame(schema=_BAD))
    return _together([_no_rows(columns), *_text(path, kind, iter([head(path)[0]]), columns)])


def batches(path: Path, columns: Sequence[str]) -> Iterator[Rows]:
    """Yield the same in batches of about BATCH_ROWS rows, one after the other; at least one."""
    kind = kind_of(path)
    if kind == "parquet":
        with progress(f"reading {escape_control(path.name)}", parquet.count_rows(path), "rows") as work:
            for good in parquet.batches(path, columns, BATCH_ROWS):
                work.advance(len(good))
                yield Rows(good, pl.DataFrame(schema=_BAD))
        return
    with progress(f"reading {escape_control(path.name)}", path.stat().st_size, "bytes") as work:
        waiting = [_no_rows(columns)]
        for rows in _text(path, kind, _blocks(path, BLOCK, work.advance), columns):
            waiting.append(rows)
            if sum(len(each.good) for each in waiting) >= BATCH_ROWS:
                yield _together(waiting)
                waiting = []
        if waiting:
            yield _together(waiting)


def _text(path: Path, kind: str, blocks: Iterable[bytes], columns: Sequence[str]) -> Iterator[Rows]:
    return _csv(path, blocks, columns) if kind in SEPARATORS else _json(blocks, columns)


def _no_rows(columns: Sequence[str]) -> Rows:
    schema = {name: pl.String for name in columns} | {"line": pl.Int64}
    return Rows(pl.DataFrame(schema=schema), pl.DataFrame(schema=_BAD))


def _together(parts: Sequence[Rows]) -> Rows:
    good, bad = (pl.concat(each) for each in zip(*((part.good, part.bad) for part in parts), strict=True))
    return Rows(good if good["line"].is_sorted() else good.sort("line"), bad.sort("line"))


def about_rows(path: Path) -> int:
    """Return how many rows a file has; of a text file it is told by the length of the lines at its head."""
    if kind_of(path) == "parquet":
        return parquet.count_rows(path)
    size = path.stat().st_size
    if path.name.lower().endswith(".gz") and size >= GZIP_SIZE:
        with path.open("rb") as packed:
            packed.seek(-GZIP_SIZE, os.SEEK_END)
            size = max(size, int.from_bytes(packed.read(), "little"))  # unpacked, up to 4 GiB
    block, is_all = head(path)
    lines = block.count(b"\n")
    return lines if is_all else size * lines // max(len(block), 1)


def head(path: Path) -> tuple[bytes, bool]:
    """Return the first lines of a text file, about 1 MiB, and whether that is all of it."""
    blocks = _blocks(path, HEAD)
    return next(blocks, b""), next(blocks, None) is None


def _check_form(path: Path, block: bytes) -> None:
    """Refuse a text file that is something else."""
    form = next((name for mark, name in _OTHER_FORMS.items() if block.startswith(mark)), None)
    if form is None and b"\0" in block[:ROW_CHARACTERS]:
        form = "no text in UTF-8"
    if form:
        raise UserError(f"{path}: it is {form}. Save it as CSV, TSV or JSON lines in UTF-8, or as Parquet.")
    if b"\r" in block.split(b"\n", 1)[0].rstrip(b"\r"):
        raise UserError(f"{path}: its lines end in a carriage return (CR) alone. Save it with line feeds (LF).")


def _blocks(path: Path, size: int, on_read: Callable[[int], None] = lambda count: None) -> Iterator[bytes]:
    """Yield the file's bytes in blocks of whole lines; what a line has above LONGEST_RECORD may be left out.

    `on_read` gets how many bytes of the file, packed as they are, were read for each block.
    """
    is_packed = path.name.lower().endswith(".gz")
    rest, unpacked, told = b"", 0, 0
    try:
        with path.open("rb") as packed, gzip.open(packed) if is_packed else nullcontext(packed) as file:
            while block := file.read(size):
                on_read(packed.tell() - told)
                told = packed.tell()
                unpacked += len(block)
                if is_packed:
                    check_unpacked(path, unpacked)
                end = block.rfind(b"\n") + 1
                if end:
                    yield rest + block[:end]
                    rest = b""
                rest = (rest + block[end:])[: LONGEST_RECORD + 1]
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: cannot be unpacked to its end ({error}). Get the file again.") from error
    if rest:
        yield rest


def _lines(block: bytes, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take a block apart: (line, text) of what is UTF-8 and not too long, and the bad lines."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends + 1]).astype(np.int64)  # the newlines stay at the ends of the lines
    data = block if block.endswith(b"\n") else block + b"\n"
    texts = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(starts), pa.py_buffer(data))
    bad = pl.DataFrame(schema=_BAD)
    numbers = pl.int_range(first, first + len(ends), dtype=pl.Int64, eager=True).alias("line")
    if np.diff(starts).max(initial=0) > LONGEST_RECORD + 1 or not _is_utf8(data):
        raw = texts.cast(pa.large_binary()).to_pylist()
        reasons = {number: reason for number, line in enumerate(raw) if (reason := _why_bad(line))}
        wrong = list(reasons)
        rows = [raw[number][: 4 * ROW_CHARACTERS].decode("utf-8", "replace").rstrip("\r\n") for number in wrong]
        bad = pl.DataFrame(
            {
                "line": [first + number for number in wrong],
                "reason": list(reasons.values()),
                "row": [row[:ROW_CHARACTERS] for row in rows],
            },
            _BAD,
        )
        right = np.setdiff1d(np.arange(len(ends)), wrong)
        texts = texts.cast(pa.large_binary()).take(pa.array(right)).cast(pa.large_string())
        numbers = numbers.gather(right)
    good = pl.DataFrame([numbers, pl.Series("text", texts).str.strip_chars_end("\r\n")])
    return good, bad


def _why_bad(line: bytes) -> str | None:
    """Return why a line with its end cannot be read as text, if so."""
    if len(line) > LONGEST_RECORD + 1:
        return "too_long"
    return None if _is_utf8(line) else "undecodable"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _refused(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select("line", reason=pl.lit(reason), row=pl.col("text").str.slice(0, ROW_CHARACTERS))


# CSV and TSV


def separator_of(path: Path, line: str) -> str:
    """Return what stands between the columns of a text file, by its first line.

    It is what the file's name tells, unless that takes the line as one column, and another mark does not: then the one
    that makes the most of it.
    """
    usual = SEPARATORS[kind_of(path)]
    columns = {mark: len(_fields(line, mark) or []) for mark in (usual, *OTHER_SEPARATORS)}
    return usual if columns[usual] != 1 else max(columns, key=columns.__getitem__)


def _header(path: Path, line: bytes) -> tuple[list[str], str]:
    """Return the columns that a file's first line names, and what stands between them."""
    if len(line) > LONGEST_RECORD:
        raise UserError(
            f"{path}: its first line has more than {LONGEST_RECORD:,} bytes (LONGEST_RECORD). It must name the columns."
        )
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its first line is not UTF-8 text. Save the file as UTF-8.") from error
    separator = separator_of(path, text)
    fields = _fields(text, separator)
    if not text.strip() or fields is None:
        raise UserError(f"{path}: its first line must name the columns.")
    return check_columns(path, [field.strip() for field in fields]), separator


def _field_pattern(separator: str) -> str:
    mark = re.escape(separator)
    return f'{mark}(?:"(?:[^"]|"")*"|(?:[^"{mark}][^{mark}]*)?)'


def _fields(text: str, separator: str) -> list[str] | None:
    """Return the fields of one record, None where its quoting is broken."""
    if separator not in QUOTING:
        return text.split(separator)
    found = re.findall(_field_pattern(separator), separator + text)
    if sum(map(len, found)) != len(text) + 1:
        return None
    return [field[2:-1].replace('""', '"') if field[1:2] == '"' else field[1:] for field in found]


def _csv(path: Path, blocks: Iterable[bytes], columns: Sequence[str]) -> Iterator[Rows]:
    first, header, separator = 1, list[str](), ""
    open_record: pl.DataFrame | None = None  # the lines of a quoted record that goes on in the next block
    for block in blocks:
        if not header:
            top, _, block = block.partition(b"\n")
            (header, separator), first = _header(path, top), 2
        lines, bad = _lines(block, first)
        first += block.count(b"\n") + (not block.endswith(b"\n") and bool(block))
        if separator not in QUOTING:
            yield _split_fields(lines, bad, header, columns, separator)
            continue
        if open_record is not None:
            lines = pl.concat([open_record, lines])
        lines, stray, open_record = _join_quoted(lines, header, separator)
        yield _split_fields(lines, pl.concat([bad, _refused(stray, "bad_quoting")]), header, columns, separator)
    if open_record is not None:
        yield _split_fields(open_record, pl.DataFrame(schema=_BAD), header, columns, separator)


def _join_quoted(
    lines: pl.DataFrame, header: list[str], separator: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame | None]:
    """Join the lines of each record whose quoted field holds newlines; return records, refused lines, what is open.

    Only a line with an odd number of quotes can open or close such a record. Two of them are joined when the result
    is a record with the right number of fields; else each stays as it is and is found bad later. Where most of the
    lines are records themselves the two quotes are stray: nothing is joined, and the two lines are refused.
    """
    nothing = lines.clear()
    quotes = lines["text"].str.count_matches('"', literal=True)
    odd = (quotes % 2 == 1).arg_true().to_list()
    if not odd:
        return lines, nothing, None
    opens = re.compile(f'(?:^|{re.escape(separator)})"(?:[^"]|"")*$')
    texts, end, joined, inner, stray = lines["text"], len(lines), dict[int, str](), list[int](), list[int]()
    ends = np.cumsum(texts.str.len_bytes().to_numpy() + 1)
    index = 0
    while index < len(odd):
        start = odd[index]
        index += 1
        if not opens.search(texts[start]):
            continue
        stop = odd[index] if index < len(odd) else None
        last = len(lines) - 1 if stop is None else stop
        if last - start >= RECORD_LINES or ends[last] - ends[start] > LONGEST_RECORD:
            continue
        if stop is None:
            end = start
            continue
        record = texts[start : stop + 1].to_list()
        text = "\n".join(record)
        fields = _fields(text, separator)
        if fields is None or len(fields) != len(header):
            continue
        index += 1
        if sum(_is_record(line, separator, len(header)) for line in record) > STRAY * len(record):
            stray += [start, stop]
        else:
            joined[start] = text
            inner += range(start + 1, stop + 1)
    texts = texts.scatter(list(joined), list(joined.values())) if joined else texts
    keep = np.ones(len(lines), bool)
    keep[[*inner, *stray]] = False
    keep[end:] = False
    records = lines.with_columns(text=texts).filter(pl.Series(keep))
    return records, lines[stray] if stray else nothing, lines[end:] if end < len(lines) else None


def _is_record(line: str, separator: str, width: int) -> bool:
    """Say whether a line has the right number of fields, where a quote that is not closed is a character."""
    mark = re.escape(separator)
    return len(re.findall(f'{mark}(?:"(?:[^"]|"")*"(?={mark}|$)|[^{mark}]*)', separator + line)) == width


def _split_fields(
    lines: pl.DataFrame, bad: pl.DataFrame, header: list[str], columns: Sequence[str], separator: str
) -> Rows:
    text, width = pl.col("text"), len(header)
    lines = lines.filter(text.str.contains(rf"[^\s]|{re.escape(separator)}"))
    has_quotes = lines["text"].str.contains('"', literal=True)
    if separator not in QUOTING:
        has_quotes = has_quotes & False
    plain, quoted = lines.filter(~has_quotes), lines.filter(has_quotes)
    fits = text.str.count_matches(separator, literal=True) == width - 1
    bad = pl.concat([bad, _refused(plain.filter(~fits), "wrong_field_count")])
    plain = plain.filter(fits)
    split = plain["text"].str.split_exact(separator, width - 1).struct.unnest()
    good = split.select(pl.nth(header.index(name)).alias(name) for name in columns).with_columns(plain["line"])
    if len(quoted):
        quoted = quoted.with_columns(field=(pl.lit(separator) + text).str.extract_all(_field_pattern(separator)))
        whole = pl.col("field").list.join("").str.len_bytes() == text.str.len_bytes() + len(separator)
        fits = pl.col("field").list.len() == width
        bad = pl.concat(
            [
                bad,
                _refused(quoted.filter(~whole), "bad_quoting"),
                _refused(quoted.filter(whole & ~fits), "wrong_field_count"),
            ]
        )
        quoted = quoted.filter(whole & fits)
        unquoted = quoted.select([_unquoted(header.index(name)).alias(name) for name in columns] + [pl.col("line")])
        good = pl.concat([good, unquoted]).sort("line")
    return Rows(good.with_columns(pl.col(list(columns)).replace("", None)), bad)


def _unquoted(number: int) -> pl.Expr:
    field = pl.col("field").list.get(number).str.slice(1)
    inside = field.str.slice(1, field.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
    return pl.when(field.str.starts_with('"')).then(inside).otherwise(field)


# JSON lines


def _json(blocks: Iterable[bytes], columns: Sequence[str]) -> Iterator[Rows]:
    first = 1
    for block in blocks:
        if first == 1:
            block = block.removeprefix(b"\xef\xbb\xbf")
        lines, bad = _lines(block, first)
        first += block.count(b"\n")
        lines = lines.filter(pl.col("text").str.contains(r"\S"))
        for part in lines.iter_slices(JSON_ROWS):
            yield _together(list(_objects(part, columns)))
        yield Rows(_no_rows(columns).good, bad)


def _objects(lines: pl.DataFrame, columns: Sequence[str]) -> Iterator[Rows]:
    """Parse a stretch at once, apart from lines that do not look like one object; where that fails halve it.

    The parser joins all lines into one array, so a line that does not look like an object must not reach it, and each
    object that it returns must show the number of its line.
    """
    alike = lines["text"].str.contains(r"(?s)^\s*\{\s*[\"}].*\}\s*$")
    if not alike.all():
        yield _objects_one_by_one(lines.filter(~alike), columns)
        lines = lines.filter(alike)
    decoded = _decode(lines, columns)
    if decoded is not None:
        named = dict(zip(columns, decoded, strict=True))  # in a list polars names one without a name
        yield Rows(pl.DataFrame(named | {"line": lines["line"]}), pl.DataFrame(schema=_BAD))
    elif len(lines) <= 256:
        yield _objects_one_by_one(lines, columns)
    else:
        half = len(lines) // 2
        yield from _objects(lines[:half], columns)
        yield from _objects(lines[half:], columns)


def _decode(lines: pl.DataFrame, columns: Sequence[str]) -> list[pl.Series] | None:
    """Return the columns of JSON objects with simple values, None where a line is anything else."""
    if not len(lines):
        return [pl.Series(name, [], pl.String) for name in columns]
    numbers, rest = pl.col("line").cast(pl.String), pl.col("text").str.strip_chars_start().str.slice(1)
    marked = lines.select(pl.concat_str(pl.lit(f'{{"{_MARK}":'), numbers, pl.lit(","), rest)).to_series()
    try:
        objects = marked.str.json_decode(pl.Struct({_MARK: pl.Int64} | {name: pl.String for name in columns}))
    except pl.exceptions.ComputeError:
        return None
    if not objects.struct.field(_MARK).equals(lines["line"], null_equal=False):
        return None
    return [objects.struct.field(name).replace("", None) for name in columns]


def _objects_one_by_one(lines: pl.DataFrame, columns: Sequence[str]) -> Rows:
    found = [_parse(text) for text in lines["text"]]
    good = {name: [_as_text(each.get(name)) for each in found if each is not None] for name in columns}
    right = pl.Series([each is not None for each in found], dtype=pl.Boolean)
    frame = pl.DataFrame(good, {name: pl.String for name in columns}).with_columns(lines["line"].filter(right))
    return Rows(frame, _refused(lines.filter(~right), "not_json"))


def _parse(text: str) -> dict[str, Any] | None:
    """Return the object that a line holds: JSON, or a Python dict as in Amazon's metadata of 2014."""
    text = text.strip()
    if not text.startswith("{"):
        return None
    for parse in (_parse_json, ast.literal_eval)[: 1 + (len(text) <= LONGEST_LITERAL)]:
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, dict) and all(isinstance(key, str) for key in found) else None
    return None


def _parse_json(text: str) -> Any:
    """Read JSON; of a key that an object has twice the first counts, as for the parser of whole stretches."""
    return json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs)) if _repeats(pairs) else dict(pairs))


def _repeats(pairs: list[tuple[str, Any]]) -> bool:
    return len(dict(pairs)) < len(pairs)


def _as_text(value: Any) -> str | None:
    if isinstance(value, list):
        value = " ".join(filter(None, map(_as_text, value)))
    elif isinstance(value, bool | dict):
        value = json.dumps(value)
    elif isinstance(value, float):
        value = np.format_float_positional(value, trim="-")  # as the parser of whole stretches writes it
    if value is None or value == "":
        return None
    return str(value).encode("utf-8", "replace").decode("utf-8")
