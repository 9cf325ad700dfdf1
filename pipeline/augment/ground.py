"""Find a catalogue item for each answer, and keep those that are faithful to the answer and relevant to the user."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.schemas import GROUNDED_ITEMS
from data_lake.tables import empty
from pipeline.config import EnrichConfig
from pipeline.frames import frame_of, to_arrow
from pipeline.histories import of_users, prompt_visible
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.embedding import Embed
from pipeline.vectors.neighbours import Index, build, recall

BLOCK_NUMBERS = 1 << 24
NEIGHBOURS = 32
"""Items that an index is asked for; the nearest that the user's shown part does not hold is taken."""
SCORES = ("faithfulness", "faithfulness_threshold", "relevance", "relevance_threshold")
DECIMALS = 5
"""Scores are rounded, so that how rows were blocked decides nothing."""


@dataclass(frozen=True)
class GroundingThresholds:
    """What a domain's scores are compared with. They depend on the catalogue and the seed, on no user."""

    items: np.ndarray  # rows in the catalogue of the domain's items with text
    sample: np.ndarray  # rows of a fixed sample of them
    faithful: float  # the quantile of the cosines of sampled items to their own nearest neighbours
    index: Index | None = None  # over `items`, where they are too many to compare with each


def _sample(items: np.ndarray, catalogue: Catalogue, cfg: EnrichConfig) -> np.ndarray:
    """Return `cfg.sample` of the rows, by the hash of seed and item: a new item takes the place of one at most."""
    if len(items) <= cfg.sample:
        return items
    ids = catalogue.item_ids.take(pa.array(items)).to_pylist()
    marks = [hashlib.sha256(f"{cfg.seed}\0{item_id}".encode()).digest() for item_id in ids]
    return np.sort(items[sorted(range(len(items)), key=marks.__getitem__)[: cfg.sample]])


class Grounder:
    """Finds the catalogue items of answers: the catalogue's side of grounding, measured once for all users."""

    def __init__(self, items: pa.Table, catalogue: Catalogue, cfg: EnrichConfig, domains: Sequence[str]) -> None:
        self._titles = frame_of(items).select("item_id", "title")
        self._catalogue, self._cfg = catalogue, cfg
        self._thresholds = {domain: thresholds_of(catalogue, cfg, domain) for domain in domains}

    def ground(self, sequences: pa.Table, representatives: pa.Table, generated: pa.Table, embed: Embed) -> pa.Table:
        """Return GROUNDED_ITEMS: a row per answer to the users of `sequences`, kept or with the reason why not.

        The other tables may hold further users. An answer's item is the one that the generator named, else the nearest
        in its domain that is not among what prompts show of the user. Faithfulness is the cosine of answer and item;
        relevance the cosine of the item with the nearest of all of the user's representatives. Reasons, the first that
        applies: `no_neighbour`; `unfaithful`, `irrelevant` (with the noise filter); `duplicate` (another answer to this
        user means the same item more closely); `over_budget` (others are more relevant).
        """
        answers = _answers(generated, sequences["user_id"])
        if answers.is_empty():
            return empty(GROUNDED_ITEMS)
        known = of_users(representatives, sequences["user_id"])
        shown = prompt_visible(sequences, self._cfg.prompt_share)
        scored = self._scored(answers, embed, shown, known.select("row", "item_ids").explode("item_ids").drop_nulls())
        budget = known.select("row", "budget", to_domain="domain")
        found = scored.join(budget, on=["row", "to_domain"], how="left", maintain_order="left")
        return self._table(_judged(found, self._cfg.noise_filter))

    def counts(self, grounded: pa.Table) -> dict[str, Any]:
        """Return a manifest's figures: answers kept, those dropped by reason, and the recall of an index."""
        dropped = Counter(reason for reason in grounded["reason"].to_pylist() if reason)
        kept = grounded.num_rows - dropped.total()
        indexes = (each.index for each in self._thresholds.values())
        return {"kept": kept, "dropped": dict(sorted(dropped.items())), **recall(indexes)}

    def _scored(
        self, answers: pl.DataFrame, embed: Embed, shown: pl.DataFrame, representatives: pl.DataFrame
    ) -> pl.DataFrame:
        """Add to each answer its `item` (row of the catalogue, -1: none) and the columns of SCORES."""
        catalogue = self._catalogue
        named = catalogue.rows(answers["named"].to_arrow())
        texts = answers.filter(pl.Series(named < 0))["answer"].unique(maintain_order=True)
        vectors = embed(texts.to_list()) if len(texts) else np.zeros((0, catalogue.vectors.shape[1]), np.float32)
        numbers = answers["answer"].replace_strict(texts, range(len(texts)), default=-1, return_dtype=pl.Int64)
        text_of = numbers.to_numpy()
        shown_items = RaggedRows(shown["row"].to_numpy(), catalogue.rows(shown["item_id"].to_arrow()))
        stand_ins = RaggedRows(
            representatives["row"].to_numpy(), catalogue.rows(representatives["item_ids"].to_arrow())
        )
        row, to = answers["row"].to_numpy(), answers["to_domain"].to_numpy()
        item = named.copy()
        scores = np.full((len(SCORES), len(row)), np.nan)
        scores[0, named >= 0] = 1.0
        for domain in np.unique(to):
            here, limits = np.flatnonzero(to == domain), self._thresholds[str(domain)]
            described = here[named[here] < 0]
            described = described[np.argsort(text_of[described], kind="stable")]
            asked = text_of[described], row[described], vectors, catalogue, limits.items, shown_items
            if limits.index is None:
                item[described], scores[0, described] = _nearest(*asked)
            elif len(described):
                item[described], scores[0, described] = _nearest_by_index(limits.index, *asked)
            scores[1, here] = limits.faithful
            scores[2, here] = _relevance(item[here], row[here], catalogue, stand_ins)
            quantile = self._cfg.relevant_quantile
            scores[3, here] = _relevance_thresholds(row[here], catalogue, limits.sample, stand_ins, quantile)
        scores[:, item < 0] = np.nan
        columns = (pl.Series(name, values) for name, values in zip(SCORES, scores, strict=True))
        return answers.with_columns(pl.Series("item", item), *columns)

    def _table(self, judged: pl.DataFrame) -> pa.Table:
        """Return the judged answers as GROUNDED_ITEMS, with ids and titles for rows of the catalogue."""
        ids = self._catalogue.item_ids.take(pa.array(judged["item"].clip(lower_bound=0).to_numpy()))
        named = judged.with_columns(item_id=pl.when(pl.col("item") >= 0).then(pl.Series(pl.from_arrow(ids))))
        table = named.join(self._titles, on="item_id", how="left", maintain_order="left").with_columns(
            pl.col(SCORES).fill_nan(None), kept=pl.col("reason").is_null()
        )
        return to_arrow(table.select(GROUNDED_ITEMS.tables[""].names), GROUNDED_ITEMS)


def thresholds_of(catalogue: Catalogue, cfg: EnrichConfig, domain: str) -> GroundingThresholds:
    """Return what the scores of one domain are compared with."""
    items = catalogue.texts_of(domain)
    sample = _sample(items, catalogue, cfg)
    nearest = np.full(len(sample), -1.0)  # a domain of one item has no neighbours: every answer is faithful
    for block in _blocks(len(sample), len(items)):
        scores = catalogue.vectors[sample[block]] @ catalogue.vectors[items].T
        scores[items[None, :] == sample[block, None]] = -1
        nearest[block] = scores.max(axis=1)
    threshold = float(np.quantile(nearest, cfg.faithful_quantile)) if len(items) else 1.0
    index = build(catalogue.vectors[items], cfg.exact_up_to)
    return GroundingThresholds(items, sample, round(threshold, DECIMALS), index)


def _answers(generated: pa.Table, user_ids: pa.ChunkedArray) -> pl.DataFrame:
    """Return a row per answer to these users; `row` is the user's index in `user_ids`, `index` the answer's."""
    return (
        of_users(generated, user_ids)
        .select("row", "user_id", "from_domain", "to_domain", answer="answers", named="item_ids")
        .with_columns(answer_index=pl.int_ranges(pl.col("answer").list.len()))
        .filter(pl.col("answer").list.len() > 0)
        .with_columns(
            named=pl.when(pl.col("named").list.len() > 0)
            .then("named")
            .otherwise(pl.col("answer").list.eval(pl.lit(None, pl.String)))
        )
        .explode("answer", "answer_index", "named")
        .with_row_index("index")
    )


class RaggedRows:
    """A list of catalogue rows per user."""

    def __init__(self, users: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(users, kind="stable")
        self.users, self.values = users[order], values[order]

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of the lists of `users`, one list after the other, and where each begins."""
        start, end = (np.searchsorted(self.users, users, side) for side in ("left", "right"))
        sizes = end - start
        begins = np.cumsum(sizes) - sizes
        return self.values[np.arange(sizes.sum()) + np.repeat(start - begins, sizes)], begins


def _nearest(
    text: np.ndarray, user: np.ndarray, vectors: np.ndarray, catalogue: Catalogue, items: np.ndarray, shown: RaggedRows
) -> tuple[np.ndarray, np.ndarray]:
    """Return each answer's item (-1: none) and cosine; `text` (rising) says which vector is the answer's."""
    found, cosine = np.full(len(text), -1), np.full(len(text), np.nan)
    if not len(items):
        return found, cosine
    distinct = np.unique(text)
    candidates = catalogue.vectors[items]
    column = np.full(len(catalogue.vectors), -1)
    column[items] = np.arange(len(items))
    for block in _blocks(len(distinct), len(items)):
        scores = np.round(vectors[distinct[block]] @ candidates.T, DECIMALS)
        best = scores.argmax(axis=1)
        mine = np.flatnonzero((text >= distinct[block][0]) & (text <= distinct[block][-1]))
        line = np.searchsorted(distinct[block], text[mine])
        found[mine], cosine[mine] = items[best[line]], scores[line, best[line]]
        held, begins = shown.of(user[mine])
        owner = np.repeat(np.arange(len(mine)), np.diff(np.append(begins, len(held))))
        taken = np.unique(owner[held == found[mine][owner]])  # the nearest is in the user's shown part: look further
        for part in _blocks(len(taken), len(items)):
            again = mine[taken[part]]
            open_scores = scores[line[taken[part]]]
            held, begins = shown.of(user[again])
            owner = np.repeat(np.arange(len(again)), np.diff(np.append(begins, len(held))))
            inside = (held >= 0) & (column[held] >= 0)
            open_scores[owner[inside], column[held[inside]]] = -np.inf
            best_open = open_scores.argmax(axis=1)
            value = open_scores[np.arange(len(again)), best_open]
            found[again] = np.where(np.isfinite(value), items[best_open], -1)
            cosine[again] = value
    return found, np.round(cosine, DECIMALS)


def _nearest_by_index(
    index: Index, text: np.ndarray, user: np.ndarray, vectors: np.ndarray, catalogue: Catalogue, items: np.ndarray,
    shown: RaggedRows,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return what `_nearest` does, looking only at the neighbours that the index finds; exactly where it finds none."""
    distinct, inverse = np.unique(text, return_inverse=True)
    rows, scores = index.search(vectors[distinct], min(NEIGHBOURS, len(items)))
    scores = np.round(scores, DECIMALS)
    order = np.lexsort((rows, -scores), axis=1)
    near = np.where(rows < 0, -1, items[rows])
    near, scores = np.take_along_axis(near, order, axis=1), np.take_along_axis(scores, order, axis=1)
    open_ = near[inverse] >= 0
    held, begins = shown.of(user)
    owner = np.repeat(np.arange(len(text)), np.diff(np.append(begins, len(held))))
    size = len(catalogue.vectors)
    open_ &= ~np.isin(np.arange(len(text))[:, None] * size + near[inverse], (owner * size + held)[held >= 0])
    first = open_.argmax(axis=1)
    found, cosine = near[inverse, first], scores[inverse, first]
    none = ~open_.any(axis=1)
    found[none], cosine[none] = _nearest(text[none], user[none], vectors, catalogue, items, shown)
    return found, cosine


def _relevance(item: np.ndarray, user: np.ndarray, catalogue: Catalogue, stand_ins: RaggedRows) -> np.ndarray:
    """Return the cosine of each item with the nearest of its user's representatives."""
    relevance = np.full(len(item), -1.0)
    for block in _blocks(len(item), 32 * catalogue.vectors.shape[1]):
        theirs, begins = stand_ins.of(user[block])
        owner = np.repeat(item[block], np.diff(np.append(begins, len(theirs))))
        cosines = np.einsum("nd,nd->n", catalogue.vectors[owner], catalogue.vectors[theirs])
        relevance[block] = np.maximum.reduceat(cosines, begins)
    return np.round(relevance, DECIMALS)


def _relevance_thresholds(
    user: np.ndarray, catalogue: Catalogue, sample: np.ndarray, stand_ins: RaggedRows, quantile: float
) -> np.ndarray:
    """Return, per answer, the quantile of what the sampled items score against its user's representatives."""
    if not len(sample):
        return np.full(len(user), np.nan)
    users, inverse = np.unique(user, return_inverse=True)
    thresholds = np.empty(len(users))
    for block in _blocks(len(users), 32 * len(sample)):
        theirs, begins = stand_ins.of(users[block])
        cosines = catalogue.vectors[theirs] @ catalogue.vectors[sample].T
        thresholds[block] = np.quantile(np.maximum.reduceat(cosines, begins, axis=0), quantile, axis=1)
    return np.round(thresholds, DECIMALS)[inverse]


def _judged(found: pl.DataFrame, noise_filter: bool) -> pl.DataFrame:
    """Add the column `reason`: the first that applies, null for what is kept."""
    rules = [pl.when(pl.col("item") < 0).then(pl.lit("no_neighbour"))]
    if noise_filter:
        rules.append(pl.when(pl.col("faithfulness") < pl.col("faithfulness_threshold")).then(pl.lit("unfaithful")))
        rules.append(pl.when(pl.col("relevance") < pl.col("relevance_threshold")).then(pl.lit("irrelevant")))
    judged = found.with_columns(reason=pl.coalesce(rules))
    judged = judged.sort("faithfulness", "index", descending=[True, False], nulls_last=True)
    again = pl.int_range(pl.len()).over("row", "item", pl.col("reason").is_null()) > 0
    judged = judged.with_columns(reason=pl.coalesce("reason", pl.when(again).then(pl.lit("duplicate")))).sort(
        "relevance", "faithfulness", "index", descending=[True, True, False], nulls_last=True
    )
    over = pl.int_range(pl.len()).over("row", "to_domain", pl.col("reason").is_null()) >= pl.col("budget")
    return judged.with_columns(reason=pl.coalesce("reason", pl.when(over).then(pl.lit("over_budget")))).sort("index")


def _blocks(rows: int, numbers_per_row: int) -> list[slice]:
    """Return slices over `rows`, each of at most about BLOCK_NUMBERS numbers."""
    size = max(1, BLOCK_NUMBERS // max(numbers_per_row, 1))
    return [slice(first, first + size) for first in range(0, rows, size)]
