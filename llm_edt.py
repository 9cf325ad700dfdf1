"""Use what LLM-EDT made from Python: an exported model, and the tables of a lake.

model = llm_edt.load("exported/shop")
model.recommend([{"user": "u1", "items": ["a", "b"]}], domain="food", top=10)
lake = llm_edt.open_lake("edt.toml")
lake.table("grounded_items")  # a polars LazyFrame
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_lake.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from data_lake.lake import Lake
    from model.recommend import Recommender

__all__ = ["Model", "OpenLake", "UserError", "load", "open_lake"]


class Model:
    """An exported model. It holds items and no users: each history is read as it is given."""

    def __init__(self, recommender: "Recommender") -> None:
        self._recommender = recommender

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that the model knows."""
        return self._recommender.data.domains

    def recommend(
        self, histories: Sequence[Mapping[str, Any]], domain: str | None = None, top: int = 10,
        allow: Sequence[str] | None = None, deny: Sequence[str] = (),
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return the best items that a history does not hold, one object per history and domain, in their order.

        histories: objects of `items`, ids from the oldest to the newest, and of `user`, any name. domain: None is all.
        allow, deny: ids of the only items, and of items never, to recommend.

        An object has `user`, `domain`, `unknown`, the number of given ids that the model does not know, and `items`,
        the best first, of `item`, `title` and `score`. A history without any known item gets what was popular when the
        model was trained, from a model without recent popularity nothing. Raises UserError for an unknown domain.
        """
        from model.config import RecommendConfig
        from model.data.item_lists import allowed_items
        from model.recommend import as_lists

        data, names = self._recommender.data, [str(number) for number in range(len(histories))]
        rows = [(name, str(item)) for name, given in zip(names, histories, strict=True) for item in given["items"]]
        table = pa.table({
            "user_id": pa.array([name for name, _ in rows], pa.string()),
            "item_id": pa.array([item for _, item in rows], pa.string()),
        })  # fmt: skip
        allowed = allowed_items(data, *(None if ids is None else pa.array(ids, pa.string()) for ids in (allow, deny)))
        domains = self.domains if domain is None else (domain,)
        served = self._recommender.recommend(
            table, RecommendConfig(top=top), users=pa.array(names, pa.string()), allowed=allowed, domains=domains
        )
        lists = {(each["user"], each["domain"]): each["items"] for each in as_lists(served.recommendations)}
        found, unknown = [], served.histories.unknown_by_user
        for number, (name, given) in enumerate(zip(names, histories, strict=True)):
            for each in domains:
                about = {"user": given.get("user"), "domain": each, "unknown": int(unknown[number])}
                found.append(about | {"items": lists.get((name, each), [])})
        return found

    def similar(self, item: str, top: int = 10, domain: str | None = None) -> list[dict[str, Any]]:
        """Return the items whose learnt vectors are nearest: objects of domain, rank, item_id, title and cosine."""
        return self._recommender.similar(item, top, () if domain is None else (domain,))


class OpenLake:
    """The artifacts of the dataset that a settings file describes, as they are current."""

    def __init__(self, lake: "Lake") -> None:
        self._lake = lake

    def table(self, artifact: str, table: str = "") -> "pl.LazyFrame":
        """Return an artifact's rows, unread; `table` names one of an artifact of several. Raises UserError."""
        import polars as pl

        from data_lake.schemas import ARTIFACTS

        folder, tables = self._lake.path(artifact), list(ARTIFACTS[artifact].tables)
        if table not in tables:
            raise UserError(
                f"{artifact} has no table {table!r}. It has {', '.join(filter(None, tables)) or 'only one'}."
            )
        return pl.scan_parquet(sorted((folder / table).glob("*.parquet")))

    def path(self, artifact: str) -> Path:
        """Return an artifact's folder."""
        return self._lake.path(artifact)


def load(folder: str | Path, device: str = "auto") -> Model:
    """Return the model that `edt export` wrote into a folder. Raises UserError where there is none."""
    from data_lake.settings_errors import parse
    from model.config import RecommendConfig
    from model.exported import load_exported

    return Model(load_exported(Path(folder), parse(RecommendConfig, {"device": device})))


def open_lake(config: str | Path = "edt.toml") -> OpenLake:
    """Return the lake of a settings file. Raises UserError where that cannot be read."""
    from data_lake.lake import Lake
    from flows.settings import load_settings

    settings = load_settings(config)
    return OpenLake(Lake(settings.lake.root, settings.dataset, settings.lake.keep))
