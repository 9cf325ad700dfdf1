from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_lake.lake import Lake, Stage, StageIO


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "store", "shop")


@pytest.fixture
def here(url: str, tmp_path: Path) -> Lake:
    """The lake at the fixture `url`, an object store, as one machine sees it."""
    return Lake(url, "shop", cache=tmp_path / "here")


@pytest.fixture
def there(url: str, tmp_path: Path) -> Lake:
    """The same as another machine sees it."""
    return Lake(url, "shop", cache=tmp_path / "there")


def items_table(*titles: str | None) -> pa.Table:
    """Return an ITEMS table of the given titles, with item ids i0, i1, ..."""
    count = len(titles)
    ids = [f"i{number}" for number in range(count)]
    columns = {"item_id": ids, "domain": ["food"] * count, "title": titles, "text": titles}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


@pytest.fixture
def items() -> Callable[..., pa.Table]:
    return items_table


@pytest.fixture
def writes() -> Callable[..., Stage]:
    """Make a stage that writes the given tables, by artifact."""

    def make(name: str, tables: dict[str, pa.Table], reads: tuple[str, ...] = (), **more: Any) -> Stage:
        def work(io: StageIO) -> None:
            for artifact in reads:
                io.read(artifact)
            for artifact, table in tables.items():
                io.write(artifact, table)

        return Stage(name, 1, reads, tuple(tables), **{"settings": {}, "work": work, **more})

    return make
