"""Find a catalogue item for each answer, and keep those that are worth inserting."""

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
from pipeline.augment.nearest import Nearest, RaggedRows
from pipeline.augment.noise_filter import NoiseFilter
from pipeline.augment.signals import Signals
from pipeline.config import EnrichConfig
from pipeline.frames import frame_of, to_arrow
from pipeline.histories import of_users, prompt_visible
from pipeline.llm.cooccurrence import Neighbours
from pipeline.vectors.catalogue import DECIMALS, Catalogue, blocks
from pipeline.vectors.embedding import Embed
from pipeline.vectors.neighbours import Index, build, recall


@dataclass(frozen=True)
class Known:
    """What grounding knows besides the answers: the catalogue, and everybody's histories."""

    items: pa.Table
    catalogue: Catalogue
    neighbours: Neighbours

    def answered(self, generated: pa.Table, representatives: pa.Table) -> "Answered":
        """Return what some users were answered, with what is known of them."""
        return Answered(generated, representatives, Signals(self.catalogue, self.neighbours, representatives))


@dataclass(frozen=True)
class Answered:
    """What some users were answered (GENERATED_ITEMS), their representatives, and the signals of both."""

    generated: pa.Table
    representatives: pa.Table
    signals: Signals


@dataclass(frozen=True)
class GroundingThresholds:
    """What a domain's answers are compared with. It depends on the catalogue and the seed, on no user."""

    sample: np.ndarray  # rows of a fixed sample of the domain's items with text
    faithful: float  # the quantile of the cosines of sampled items to their own nearest neighbours
    vectors: np.ndarray  # of the domain's items with text
    index: Index | None = None  # over these, where they are too many to compare with each


class Grounder:
    """Finds the catalogue items of answers: the catalogue's side of grounding, measured once for all users."""

    def __init__(self, known: Known, cfg: EnrichConfig, domains: Sequence[str]) -> None:
        self._known, self._cfg = known, cfg
        self._titles = frame_of(known.items).select("item_id", "title")
        self._thresholds = {domain: thresholds_of(known.catalogue, cfg, domain) for domain in domains}
        self._nearest = {
            domain: Nearest(known.catalogue, domain, limits.vectors, limits.index)
            for domain, limits in self._thresholds.items()
        }

    def ground(self, sequences: pa.Table, answered: Answered, embed: Embed, noise_filter: NoiseFilter) -> pa.Table:
        """Return GROUNDED_ITEMS: a row per answer to the users of `sequences`, kept or with the reason why not.

        `answered` may hold further users. Reasons, the first that applies: `no_neighbour`; `unproven` (with the noise
        filter: answers like it do not beat chance); `duplicate` (another answer to this user means the same item more
        closely); `over_budget` (others are more relevant).
        """
        found = self.find(sequences, answered.generated, embed)
        if found.is_empty():
            return empty(GROUNDED_ITEMS)
        budget = of_users(answered.representatives, sequences["user_id"])
        budget = budget.select("row", "budget", to_domain="domain")
        judged = noise_filter.judge(found, answered.signals)
        judged = judged.join(budget, on=["row", "to_domain"], how="left", maintain_order="left")
        reasons = _with_reason(judged, self._cfg.noise_filter)
        table = reasons.join(self._titles, on="item_id", how="left", maintain_order="left").with_columns(
            kept=pl.col("reason").is_null()
        )
        return to_arrow(table.select(GROUNDED_ITEMS.tables[""].names), GROUNDED_ITEMS)

    def find(self, sequences: pa.Table, generated: pa.Table, embed: Embed) -> pl.DataFrame:
        """Return a row per answer to the users of `sequences` with its `item_id`, or null, and its faithfulness.

        An answer's item is the one that the generator named, else the nearest in its domain that is not among what
        prompts show of the user. Faithfulness is the cosine of answer and item.
        """
        catalogue = self._known.catalogue
        answers = _answers(generated, sequences["user_id"])
        named = catalogue.rows(answers["named"].to_arrow())
        texts = answers.filter(pl.Series(named < 0))["answer"].unique(maintain_order=True)
        vectors = embed(texts.to_list()) if len(texts) else np.zeros((0, catalogue.vectors.shape[1]), np.float32)
        numbers = answers["answer"].replace_strict(texts, range(len(texts)), default=-1, return_dtype=pl.Int64)
        shown = prompt_visible(sequences, self._cfg.prompt_share)
        rows = catalogue.rows(shown["item_id"].to_arrow())
        held = RaggedRows(shown["row"].to_numpy(), rows, sequences.num_rows)
        item, faithfulness = named.copy(), np.where(named >= 0, 1.0, np.nan)
        limit = np.full(len(answers), np.nan)
        for domain in answers["to_domain"].unique():
            here = (answers["to_domain"] == domain).to_numpy()
            limit[here] = self._thresholds[domain].faithful
            described = np.flatnonzero(here & (named < 0))
            asked = answers[described]
            item[described], faithfulness[described] = self._nearest[domain].find(
                asked["answer"].to_list(), vectors[numbers.to_numpy()[described]], asked["row"].to_numpy(),
                asked["user_id"], held, self._known.neighbours,
            )  # fmt: skip
        ids = pl.Series(pl.from_arrow(catalogue.item_ids.take(pa.array(np.maximum(item, 0)))))
        is_found = pl.Series(item >= 0)
        return answers.with_columns(
            item_id=pl.when(is_found).then(ids),
            faithfulness=pl.when(is_found).then(pl.Series(faithfulness)),
            faithfulness_threshold=pl.when(is_found).then(pl.Series(limit)),
        )

    def counts(self, grounded: pa.Table) -> dict[str, Any]:
        """Return a manifest's figures: answers kept, those dropped by reason, and the recall of an index."""
        dropped = Counter(reason for reason in grounded["reason"].to_pylist() if reason)
        kept = grounded.num_rows - dropped.total()
        indexes = (each.index for each in self._thresholds.values())
        return {"kept": kept, "dropped": dict(sorted(dropped.items())), **recall(indexes)}


def thresholds_of(catalogue: Catalogue, cfg: EnrichConfig, domain: str) -> GroundingThresholds:
    """Return what the answers of one domain are compared with."""
    items = catalogue.texts_of(domain)
    sample, vectors = _sample(items, catalogue, cfg), catalogue.vectors[items]
    nearest = np.full(len(sample), -1.0)  # a domain of one item has no neighbours: every answer is faithful
    for block in blocks(len(sample), len(items)):
        scores = catalogue.vectors[sample[block]] @ vectors.T
        scores[items[None, :] == sample[block, None]] = -1
        nearest[block] = scores.max(axis=1)
    threshold = float(np.quantile(nearest, cfg.faithful_quantile)) if len(items) else 1.0
    return GroundingThresholds(sample, round(threshold, DECIMALS), vectors, build(vectors, cfg.exact_up_to))


def _sample(items: np.ndarray, catalogue: Catalogue, cfg: EnrichConfig) -> np.ndarray:
    """Return `cfg.sample` of the rows, by the hash of seed and item: a new item takes the place of one at most."""
    if len(items) <= cfg.sample:
        return items
    ids = catalogue.item_ids.take(pa.array(items)).to_pylist()
    marks = [hashlib.sha256(f"{cfg.seed}\0{item_id}".encode()).digest() for item_id in ids]
    return np.sort(items[sorted(range(len(items)), key=marks.__getitem__)[: cfg.sample]])


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


def _with_reason(judged: pl.DataFrame, noise_filter: bool) -> pl.DataFrame:
    """Add the column `reason`: the first that applies, null for what is kept."""
    rules = [pl.when(pl.col("item_id").is_null()).then(pl.lit("no_neighbour"))]
    if noise_filter:
        rules.append(pl.when(pl.col("weight") == 0).then(pl.lit("unproven")))
    judged = judged.with_columns(reason=pl.coalesce(rules))
    judged = judged.sort("faithfulness", "index", descending=[True, False], nulls_last=True)
    again = pl.int_range(pl.len()).over("row", "item_id", pl.col("reason").is_null()) > 0
    judged = judged.with_columns(reason=pl.coalesce("reason", pl.when(again).then(pl.lit("duplicate")))).sort(
        "weight", "relevance", "faithfulness", "index", descending=[True, True, True, False], nulls_last=True
    )
    over = pl.int_range(pl.len()).over("row", "to_domain", pl.col("reason").is_null()) >= pl.col("budget")
    return judged.with_columns(reason=pl.coalesce("reason", pl.when(over).then(pl.lit("over_budget")))).sort("index")
