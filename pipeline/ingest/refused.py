"""The refused rows of all files: counted, kept on disk where they are many, and told in the order of the files."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.errors import DataRefused
from data_lake.schemas import REJECTS
from pipeline.frames import to_arrow
from pipeline.ingest import readers
from pipeline.ingest.forgotten import FORGOTTEN

FILTERED = ("rating_below_minimum", "user_below_minimum", "item_below_minimum", FORGOTTEN)
"""Reasons that say nothing against a row; all others count towards `max_bad`."""

FILE = pl.UInt32
"""A file's number among all files, in the column `file`."""

AT_ONCE = 1 << 20
"""Refused rows in memory, and lines of a file whose refused rows are put in order at once."""

_SCHEMA = pl.Schema({"file": FILE, "line": pl.Int64, "kind": pl.String, "reason": pl.String, "row": pl.String})


class Refused:
    """The refused rows, and what else a person should know of the data.

    `files` names each file as people see it; many rows go to the folder `disk`.
    """

    def __init__(self, files: dict[Path, str], disk: Path) -> None:
        self._files, self._disk = files, disk
        self._waiting: list[pl.DataFrame] = []
        self._stretches: dict[tuple[int, int], list[Path]] = {}
        self._reasons: dict[str, Counter[str]] = {kind: Counter() for kind in ("interaction", "item", "query")}
        self.rows = Counter[str]()
        """All rows of the files by kind, refused or not: whoever reads them counts them."""
        self.warnings: list[str] = []

    def take(self, frame: pl.DataFrame, reason: pl.Expr, kind: str) -> pl.DataFrame:
        """Take out the rows for which `reason` is not null; return the others."""
        reasons = frame.select(reason=reason)["reason"].cast(pl.String)
        if reasons.null_count() == len(reasons):
            return frame
        bad = frame.with_columns(reasons.alias("reason")).filter(reasons.is_not_null())
        shown = [name for name in frame.columns if name.startswith("raw_")]
        text = pl.struct(pl.col(name).alias(name.removeprefix("raw_")) for name in shown).struct.json_encode()
        self.add(bad.select("file", "line", "reason", row=text.str.slice(0, readers.ROW_CHARACTERS)), kind)
        return frame.filter(reasons.is_null())

    def add(self, bad: pl.DataFrame, kind: str) -> None:
        """Keep rows of file (number), line, reason, row."""
        self._waiting.append(bad.select("file", "line", pl.lit(kind).alias("kind"), "reason", "row"))
        self._reasons[kind].update(dict(bad["reason"].value_counts().iter_rows()))
        if sum(map(len, self._waiting)) > AT_ONCE:
            self._to_disk()

    def warn(self, sentence: str) -> None:
        """Keep what a person should know of the data, whether the ingest stops or not."""
        self.warnings.append(sentence)

    def count(self, kind: str, filtered: bool = True) -> int:
        """Return how many rows were refused, or only the bad ones among them."""
        return sum(n for reason, n in self._reasons[kind].items() if filtered or reason not in FILTERED)

    def reasons(self, filtered: bool) -> dict[str, int]:
        """Return {reason: rows} over all kinds, of the filtered rows or of the bad ones."""
        found = sum(self._reasons.values(), Counter[str]())
        return {reason: count for reason, count in sorted(found.items()) if (reason in FILTERED) == filtered}

    def commonest(self, kind: str) -> str:
        """Name the commonest reasons with their counts."""
        ranked = sorted(self._reasons[kind].items(), key=lambda each: (-each[1], each[0]))
        return ", ".join(f"{reason} {count}" for reason, count in ranked[:4])

    def check_share(self, most: float) -> None:
        """Stop when more than the share `most` of the interactions, the items or the queries is bad."""
        for kind, total in self.rows.items():
            bad = self.count(kind, filtered=False)
            if bad > most * total:
                first: dict[str, Any] = next(
                    row for frame in self._in_order() for row in frame.filter(kind=kind).iter_rows(named=True)
                )
                raise self.failure(
                    f"{bad} of {total} {kind} rows are bad ({bad / total:.1%}, [data] max_bad allows {most:.1%}): "
                    f"{self.commonest(kind)}. The first is {first['file']} line {first['line']}: {first['reason']}. "
                    "Correct the files or [data] columns, or raise max_bad."
                )

    def failure(self, message: str) -> DataRefused:
        """Return the error of an ingest that stops, with the rows refused so far."""
        sentences = [message, *self.warnings, "`edt show rejects` shows the refused rows."]
        return DataRefused(" ".join(sentences), {"rejects": self.tables()})

    def tables(self) -> Iterator[pa.Table]:
        """Return REJECTS, one table after the other, in the order of the files and their lines."""
        return (to_arrow(frame, REJECTS) for frame in self._in_order())

    def number(self, path: Path) -> int:
        """Return the file's index among all files."""
        return list(self._files).index(path)

    def _in_order(self) -> Iterator[pl.DataFrame]:
        files = dict(enumerate(self._files.values()))
        if self._stretches:
            self._to_disk()
            files_of_stretches = [paths for _, paths in sorted(self._stretches.items())]
            stretches: Iterable[pl.DataFrame] = (pl.concat(map(pl.read_ipc, paths)) for paths in files_of_stretches)
        else:
            stretches = [pl.concat([pl.DataFrame(schema=_SCHEMA), *self._waiting])]
        for rows in stretches:
            ordered = rows.sort("file", "line", "reason", maintain_order=True)
            yield ordered.with_columns(pl.col("file").replace_strict(files, return_dtype=pl.String))

    def _to_disk(self) -> None:
        if not self._waiting:
            return
        rows = pl.concat(self._waiting).with_columns(stretch=pl.col("line") // AT_ONCE)
        self._waiting = []
        self._disk.mkdir(parents=True, exist_ok=True)
        for (file, stretch), part in rows.partition_by("file", "stretch", as_dict=True, include_key=True).items():
            paths = self._stretches.setdefault((file, stretch), [])
            paths.append(self._disk / f"rejects-{file}-{stretch}-{len(paths)}.arrow")
            part.drop("stretch").write_ipc(paths[-1], compression="lz4")
