"""Damage what was good: bytes, trees of JSON values, tables, and what Parquet files say of themselves, each drawn from
a seeded generator."""

import json
import math
import random
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pyarrow as pa

LARGEST = 1 << 16
"""Bytes that one change adds at most."""
NUMBERS = (
    b"0", b"-0", b"-1", b"1", b"99", b"127", b"128", b"255", b"65536", b"2147483647", b"2147483648", b"4294967296",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1e308", b"1e999", b"-1e-400", b"NaN",
    b"Infinity", b"0x10", b"1_000", b"1" * 400, b"1" * 5000,
)  # fmt: skip
FOOTER_NUMBERS = (0, 1, -1, 2, 7, 127, 10_000, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 99, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf, "",
    "a", "\0", "\ud800", "all", "x" * 1000, "../..", [], [[]], {}, {"": None}, [1, "a", None], "é" * 50, "1", "NaN",
)  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random, words: Sequence[bytes] = ()) -> bytes:
    """Return the bytes with a few changes; `words` are what may be put in besides single bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, to = sorted(rng.randrange(len(found) + 1) for _ in range(2))
        match rng.randrange(9):
            case 0 if found:
                found[min(at, len(found) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                found[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 8))))
            case 2 if words:
                found[at:at] = rng.choice(words)
            case 3:
                del found[at : min(to, at + rng.choice((1, 2, 20, len(found))))]
            case 4:
                part = found[at : min(to, at + 200)]
                found[at:at] = part * min(rng.choice((1, 2, 100, 5000)), LARGEST // max(1, len(part)))
            case 5:
                del found[at:]
            case 6 if numbers := list(re.finditer(rb"\d+", found)):
                number = rng.choice(numbers)
                found[number.start() : number.end()] = rng.choice(NUMBERS)
            case 7 if words:
                found[at:to] = rng.choice(words)
            case 8:
                found[at : at + 1] = rng.choice((b"\0", b"\xff", b"\n", b"\r\n", b'"', b"\xed\xa0\x80", b"\\", b" "))
    return bytes(found)


def mutated_tree(tree: Any, rng: random.Random) -> Any:
    """Return a tree of dicts, lists and values with one to three changes."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _changed(tree, rng)
    return tree


def _changed(tree: Any, rng: random.Random) -> Any:
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return deepcopy(rng.choice((*VALUES, [tree], [tree] * rng.choice((2, 100)), {"a": tree})))
    key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    match rng.randrange(8):
        case 0:
            del tree[key]
        case 1 if isinstance(tree, dict):
            tree[rng.choice((str(key) + "x", "", "0", "\ud800", str(key) * 50))] = deepcopy(tree[key])
        case 1 | 2 if isinstance(tree, list):
            tree.insert(key, deepcopy(rng.choice((tree[key], rng.choice(VALUES)))))
        case _:
            tree[key] = _changed(tree[key], rng)
    return tree


def mutated_table(table: pa.Table, rng: random.Random) -> pa.Table:
    """Return the table with a column changed, renamed or gone, or with other rows."""
    match rng.randrange(6):
        case 0:
            return table.slice(rng.randrange(table.num_rows + 1), rng.randrange(table.num_rows + 1))
        case 1:
            return pa.concat_tables([table, table.slice(0, rng.choice((1, table.num_rows)))])
        case 2 if table.num_columns:
            gone = rng.randrange(table.num_columns)
            return table.remove_column(gone) if rng.random() < 0.5 else table.append_column("more", table.column(gone))
    place = rng.randrange(table.num_columns)
    field, values = table.schema.field(place), table.column(place).to_pylist()
    for _ in range(rng.choice((1, 1, 3))):
        if values:
            row = rng.randrange(len(values))
            values[row] = _changed(values[row], rng) if rng.random() < 0.7 else values[rng.randrange(len(values))]
    for kind in (field.type, None):
        try:
            return table.set_column(place, field.name, pa.array(values, kind))
        except (pa.ArrowException, ValueError, TypeError, OverflowError):  # no column can hold these values
            continue
    return table


def forged_footer(data: bytes, rng: random.Random) -> bytes:
    """Return a Parquet file whose footer has one to three other numbers: of rows, sizes, offsets, types."""
    if data[-4:] != b"PAR1":
        return data
    for _ in range(rng.choice((1, 1, 2, 3))):
        numbers = footer_numbers(data)
        place = rng.randrange(len(numbers))
        value = numbers[place]
        near = (value + 1, value - 1, 2 * value, value // 2, rng.choice(numbers))
        data = with_footer_number(data, place, rng.choice((*near, rng.choice(FOOTER_NUMBERS))))
    return data


def footer_numbers(data: bytes) -> list[int]:
    """Return the whole numbers in the footer of a Parquet file, in their order there."""
    return [value for _, _, value in _Footer(data[_footer_start(data) : -8]).numbers]


def with_footer_number(data: bytes, place: int, value: int) -> bytes:
    """Return the Parquet file with another value for one of its `footer_numbers`."""
    start = _footer_start(data)
    footer = data[start:-8]
    at, end, _ = _Footer(footer).numbers[place]
    footer = footer[:at] + _varint(value) + footer[end:]
    return data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _footer_start(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _varint(value: int) -> bytes:
    """Return a whole number as Thrift's compact protocol has it, cut to 64 bits."""
    left = (value << 1 ^ value >> 63) & 2**64 - 1
    found = bytearray()
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    return bytes([*found, left])


class _Footer:
    """The whole numbers of a Parquet footer, which is a struct in Thrift's compact protocol.

    `numbers` has the place of the first byte, the place behind the last, and the value of each.
    """

    def __init__(self, data: bytes) -> None:
        self.numbers: list[tuple[int, int, int]] = []
        self._data, self._at = data, 0
        self._read(12)

    def _read(self, kind: int) -> None:
        match kind:
            case 3:  # a byte; 1 and 2 are true and false, and stand in the head of their field
                self._at += 1
            case 4 | 5 | 6:  # numbers of 16, 32 and 64 bits
                start, value = self._at, self._unsigned()
                self.numbers.append((start, self._at, value >> 1 ^ -(value & 1)))
            case 7:  # a float
                self._at += 8
            case 8:  # bytes
                size = self._unsigned()
                self._at += size
            case 9:  # a list
                size, inner = divmod(self._byte(), 16)
                for _ in range(self._unsigned() if size == 15 else size):
                    self._read(3 if inner in (1, 2) else inner)
            case 12:  # a struct
                while head := self._byte():
                    if head < 16:  # the number of its field stands by itself
                        self._unsigned()
                    self._read(head % 16)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while (part := self._byte()) > 127:
            value |= (part & 127) << shift
            shift += 7
        return value | part << shift
