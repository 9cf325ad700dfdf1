"""Read CSV, JSON lines and Parquet into columns, keeping what cannot be read with its line and the reason.

Text files are read in blocks and taken apart by column expressions, so that every row knows its true line and a bad
line costs only itself. Python looks at single lines only in a stretch that holds a bad one.
"""

import ast
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.errors import UserError

BLOCK = 1 << 24
HEAD = 1 << 20
JSON_ROWS = 50_000
RECORD_LINES = 1000
"""Lines that one quoted CSV record may span; a quote that stays open for longer is a bad line."""
ROW_CHARACTERS = 500

ENDINGS = {
    ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
SEPARATORS = {"csv": ",", "tsv": "\t"}

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
        return list(_parquet(path).collect_schema().names())
    block, _ = head(path)
    if kind in SEPARATORS:
        return _header(path, block.split(b"\n", 1)[0], SEPARATORS[kind])
    found = (_parse(line.decode("utf-8", "replace")) for line in block.split(b"\n", 1000)[:1000])
    columns = list(dict.fromkeys(key for each in found if each for key in each))
    if not columns:
        raise UserError(f"{path}: no JSON object in its first lines. Each line must hold one object.")
    return columns


def read(path: Path, columns: Sequence[str], only_head: bool = False) -> Rows:
    """Read `columns`, which the file has, and the line (Parquet: row) of each row, counted from 1."""
    kind = kind_of(path)
    if kind == "parquet":
        lists = pl.selectors.by_dtype(pl.List)
        frame = (
            _parquet(path)
            .select(columns)
            .with_columns(pl.selectors.binary().cast(pl.String), lists.cast(pl.List(pl.String)).list.join(" "))
        )
        for name, dtype in frame.collect_schema().items():
            if dtype.is_nested() or dtype == pl.Duration:
                raise UserError(f"{path}: column '{name}' holds {dtype}, no plain values. Give another column.")
        frame = (frame.head(1000) if only_head else frame).with_row_index("line", 1).cast({"line": pl.Int64})
        try:
            return Rows(frame.collect(), pl.DataFrame(schema=_BAD))
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}).") from error
    blocks = iter([head(path)[0]]) if only_head else _blocks(path, BLOCK)
    parts = list(_csv(path, blocks, columns, SEPARATORS[kind]) if kind in SEPARATORS else _json(blocks, columns))
    if not parts:
        schema = {name: pl.String for name in columns} | {"line": pl.Int64}
        return Rows(pl.DataFrame(schema=schema), pl.DataFrame(schema=_BAD))
    good, bad = (pl.concat(each) for each in zip(*((part.good, part.bad) for part in parts), strict=True))
    return Rows(good if good["line"].is_sorted() else good.sort("line"), bad.sort("line"))


def head(path: Path) -> tuple[bytes, bool]:
    """Return the first lines of a text file, about 1 MiB, and whether that is all of it."""
    blocks = _blocks(path, HEAD)
    return next(blocks, b""), next(blocks, None) is None


def _parquet(path: Path) -> pl.LazyFrame:
    try:
        frame = pl.scan_parquet(path)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}).") from error
    return frame


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the file's bytes in blocks of whole lines."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    rest = b""
    try:
        with opened(path, "rb") as file:
            for block in iter(partial(file.read, size), b""):
                end = block.rfind(b"\n") + 1
                if not end:
                    rest += block
                    continue
                yield rest + block[:end]
                rest = block[end:]
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: cannot be unpacked to its end ({error}). Get the file again.") from error
    if rest:
        yield rest


def _lines(block: bytes, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take a block apart: (line, text) of what is UTF-8, and the bad lines."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends + 1]).astype(np.int64)  # the newlines stay at the ends of the lines
    data = block if block.endswith(b"\n") else block + b"\n"
    texts = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(starts), pa.py_buffer(data))
    bad = pl.DataFrame(schema=_BAD)
    numbers = pl.int_range(first, first + len(ends), dtype=pl.Int64, eager=True).alias("line")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raw = texts.cast(pa.large_binary()).to_pylist()
        wrong = [number for number, line in enumerate(raw) if not _is_utf8(line)]
        rows = [raw[number].decode("utf-8", "replace").rstrip("\r\n")[:ROW_CHARACTERS] for number in wrong]
        bad = pl.DataFrame({"line": [first + number for number in wrong], "reason": "undecodable", "row": rows}, _BAD)
        right = np.setdiff1d(np.arange(len(ends)), wrong)
        texts = texts.cast(pa.large_binary()).take(pa.array(right)).cast(pa.large_string())
        numbers = numbers.gather(right)
    good = pl.DataFrame([numbers, pl.Series("text", texts).str.strip_chars_end("\r\n")])
    return good, bad


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _refused(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select("line", reason=pl.lit(reason), row=pl.col("text").str.slice(0, ROW_CHARACTERS))


# CSV


def _header(path: Path, line: bytes, separator: str) -> list[str]:
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its first line is not UTF-8 text. Save the file as UTF-8.") from error
    fields = _fields(text, separator)
    if not text.strip() or fields is None:
        raise UserError(f"{path}: its first line must name the columns.")
    return [field.strip() for field in fields]


def _field_pattern(separator: str) -> str:
    mark = re.escape(separator)
    return f'{mark}(?:"(?:[^"]|"")*"|(?:[^"{mark}][^{mark}]*)?)'


def _fields(text: str, separator: str) -> list[str] | None:
    """Return the fields of one CSV record, None where its quoting is broken."""
    found = re.findall(_field_pattern(separator), separator + text)
    if sum(map(len, found)) != len(text) + 1:
        return None
    return [field[2:-1].replace('""', '"') if field[1:2] == '"' else field[1:] for field in found]


def _csv(path: Path, blocks: Iterable[bytes], columns: Sequence[str], separator: str) -> Iterator[Rows]:
    first, header = 1, list[str]()
    open_record: pl.DataFrame | None = None  # the lines of a quoted record that goes on in the next block
    for block in blocks:
        if not header:
            top, _, block = block.partition(b"\n")
            header, first = _header(path, top, separator), 2
        lines, undecodable = _lines(block, first)
        first += block.count(b"\n") + (not block.endswith(b"\n") and bool(block))
        if open_record is not None:
            lines = pl.concat([open_record, lines])
        lines, open_record = _join_quoted(lines, header, separator)
        yield _split_fields(lines, undecodable, header, columns, separator)
    if open_record is not None:
        yield _split_fields(open_record, pl.DataFrame(schema=_BAD), header, columns, separator)


def _join_quoted(lines: pl.DataFrame, header: list[str], separator: str) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Join the lines of each record whose quoted field holds newlines; return the records and what is still open.

    Only a line with an odd number of quotes can open or close such a record. Two of them are joined when the result
    is a record with the right number of fields; else the line stays as it is and is found bad later.
    """
    quotes = lines["text"].str.count_matches('"', literal=True)
    odd = (quotes % 2 == 1).arg_true().to_list()
    if not odd:
        return lines, None
    opens = re.compile(f'(?:^|{re.escape(separator)})"(?:[^"]|"")*$')
    texts, end, joined, inner = lines["text"], len(lines), dict[int, str](), list[int]()
    index = 0
    while index < len(odd):
        start = odd[index]
        index += 1
        if not opens.search(texts[start]):
            continue
        stop = odd[index] if index < len(odd) else None
        if stop is None and len(lines) - start < RECORD_LINES:
            end = start
        elif stop is not None and stop - start < RECORD_LINES:
            text = "\n".join(texts[start : stop + 1])
            fields = _fields(text, separator)
            if fields is not None and len(fields) == len(header):
                joined[start] = text
                inner += range(start + 1, stop + 1)
                index += 1
    texts = texts.scatter(list(joined), list(joined.values())) if joined else texts
    keep = np.ones(len(lines), bool)
    keep[inner] = False
    keep[end:] = False
    return lines.with_columns(text=texts).filter(pl.Series(keep)), lines[end:] if end < len(lines) else None


def _split_fields(
    lines: pl.DataFrame, bad: pl.DataFrame, header: list[str], columns: Sequence[str], separator: str
) -> Rows:
    text, width = pl.col("text"), len(header)
    lines = lines.filter(text.str.contains(r"\S"))
    has_quotes = lines["text"].str.contains('"', literal=True)
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
            yield from _objects(part, columns)
        yield Rows(lines.clear().select(_nothing(columns)), bad)


def _nothing(columns: Sequence[str]) -> list[pl.Expr]:
    return [pl.lit(None, pl.String).alias(name) for name in columns] + [pl.col("line")]


def _objects(lines: pl.DataFrame, columns: Sequence[str]) -> Iterator[Rows]:
    """Parse a stretch at once, apart from lines that do not look like one object; where that fails halve it.

    The parser joins all lines into one array, so a line that does not look like an object must not reach it.
    """
    alike = lines["text"].str.contains(r"(?s)^\s*\{\s*[\"}].*\}\s*$")
    if not alike.all():
        yield _objects_one_by_one(lines.filter(~alike), columns)
        lines = lines.filter(alike)
    decoded = _decode(lines["text"], columns)
    if decoded is not None:
        yield Rows(pl.DataFrame([*decoded, lines["line"]]), pl.DataFrame(schema=_BAD))
    elif len(lines) <= 256:
        yield _objects_one_by_one(lines, columns)
    else:
        half = len(lines) // 2
        yield from _objects(lines[:half], columns)
        yield from _objects(lines[half:], columns)


def _decode(texts: pl.Series, columns: Sequence[str]) -> list[pl.Series] | None:
    """Return the columns of JSON objects with simple values, None where a line is anything else."""
    if not len(texts):
        return [pl.Series(name, [], pl.String) for name in columns]
    try:
        objects = texts.str.json_decode(pl.Struct({name: pl.String for name in columns}))
    except pl.exceptions.ComputeError:
        return None
    if len(objects) != len(texts):
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
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, dict) and all(isinstance(key, str) for key in found) else None
    return None


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
