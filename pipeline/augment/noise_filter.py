"""Learn from users of two domains which answers are worth inserting, and by how much they shall count in training.

To real choices of some users, beside random items, a logistic regression of the signals is fitted: how relevant an item
is to a user. The answers given to others are cut into bands of relevance, and it is counted how often those users chose
them. A band that beats chance is worth as much weight as it surely does; other answers are dropped. Nobody is
judged by what their own choices taught: users are dealt into three parts by a hash, and for those of one part the
second is fitted to and the third is counted. What is learnt is kept in a lake from run to run.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from data_lake.schemas import SEQUENCES
from pipeline.augment.signals import Signals
from pipeline.augment.truth import PARTS, hidden_truth, parts_of, same_item, shares
from pipeline.frames import frame_of
from pipeline.vectors.catalogue import Catalogue

LEAST_TO_FIT = 20
"""Users of a part with choices in a domain, without whom nothing is fitted: relevance is the text's cosine then."""
LEAST_TO_KEEP = 50
"""Users on whom a pair's bands are counted, from which on the counts are kept; before, every run counts again."""
RANDOM_ITEMS = 10
"""Items of the domain that stand beside each real choice."""
BANDS = 3
"""Bands of relevance, equal in answers. As many follow for answers that are not faithful to their item."""
PAIR = ["from_domain", "to_domain"]


@dataclass(frozen=True)
class Relevance:
    """How relevance follows from the signals in one domain, and the area under the ROC curve on users not fitted to.

    The areas, of it and of the text's cosine alone, are over real choices and random items; null where not fitted.
    """

    coefficients: tuple[float, ...]  # of SIGNALS
    auc: float | None = None
    text_auc: float | None = None

    def score(self, signals: pl.DataFrame) -> np.ndarray:
        """Return the relevance (rows,); NaN where a signal is null."""
        return np.round(_features(signals) @ np.array(self.coefficients), 5)

    def add_to(self, answers: pl.DataFrame) -> pl.DataFrame:
        """Add the column `relevance`; null where a signal is."""
        return answers.with_columns(relevance=pl.Series(self.score(answers)).fill_nan(None))


TEXT_ALONE = Relevance((0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Worth:
    """What a pair of domains' answers are worth, band by band.

    `edges` are the relevances at which the bands begin but the lowest, falling. `bands` holds per band, where it was
    counted, its number, users, answers, share, low, high, chance and weight; one that is missing is worth nothing.
    """

    edges: tuple[float, ...]
    bands: tuple[Mapping[str, Any], ...]
    users: int

    @property
    def weights(self) -> dict[int, float]:
        return {each["band"]: each["weight"] for each in self.bands}


UNKNOWN = Worth((), (), 0)


@dataclass(frozen=True)
class Learnt:
    """What judges the users of one part: relevance by domain, and worth by pair of domains."""

    relevances: Mapping[str, Relevance]
    worths: Mapping[tuple[str, str], Worth]


class NoiseFilter:
    """Says of answers how relevant they are and what weight they have."""

    def __init__(self, learnt: Sequence[Learnt], owners: Mapping[str, str], seed: int) -> None:
        """`learnt` has one entry per part of the users; `owners` names the user whom a probe is made of."""
        self._learnt, self._owners, self._seed = learnt, owners, seed

    def judge(self, answers: pl.DataFrame, signals: Signals) -> pl.DataFrame:
        """Add the columns of SIGNALS, `relevance`, `band` and `weight`, in the order of `answers`.

        `signals` know their users. `answers`, at least one, has `user_id`, the columns of PAIR, `item_id` (null: all
        that is added is null), `faithfulness` and `faithfulness_threshold`.
        """
        users = [self._owners.get(user, user) for user in answers["user_id"].to_list()]
        parts = pl.Series("part", parts_of(users, self._seed))
        measured = with_signals(answers.with_columns(parts).with_row_index("at"), signals)
        judged = [
            self._weighed(group, self._learnt[key[0]], (str(key[1]), str(key[2])))
            for key, group in measured.group_by("part", *PAIR)
        ]
        return pl.concat(judged).sort("at").drop("at", "part")

    @staticmethod
    def _weighed(answers: pl.DataFrame, learnt: Learnt, pair: tuple[str, str]) -> pl.DataFrame:
        worth = learnt.worths.get(pair, UNKNOWN)
        banded = with_bands(learnt.relevances.get(pair[1], TEXT_ALONE).add_to(answers), worth.edges)
        weight = pl.col("band").replace_strict(worth.weights, default=0.0, return_dtype=pl.Float64)
        return banded.with_columns(weight=pl.when(pl.col("band").is_not_null()).then(weight))

    def figures(self) -> dict[str, Any]:
        """Return a manifest's figures: how well relevance tells real choices, and what each pair's bands are worth."""
        found: dict[str, Any] = {}
        for number, learnt in enumerate(self._learnt):
            relevance = {
                domain: {"auc": each.auc, "auc_of_text": each.text_auc}
                for domain, each in learnt.relevances.items()
                if each.auc is not None
            }
            worth = {
                f"{source} to {target}": {f"band {each['band']}": dict(each) for each in worth.bands}
                for (source, target), worth in learnt.worths.items()
            }
            found[f"part {number}"] = {"relevance": relevance, "worth": worth}
        return {"noise_filter": found}

    def verdicts(self) -> dict[tuple[str, str], bool | None]:
        """Return for each pair of domains whether its answers pay; None: too few users were counted to tell."""
        pairs = dict.fromkeys(pair for learnt in self._learnt for pair in learnt.worths)
        return {pair: pays([learnt.worths.get(pair, UNKNOWN) for learnt in self._learnt]) for pair in pairs}

    def complaints(self) -> list[str]:
        """Return a sentence for each pair of domains whose answers are not worth inserting."""
        return [
            f"the answers from {source} to {target} {NOT_KNOWN if paid is None else NOT_PAYING}."
            for (source, target), paid in self.verdicts().items()
            if not paid
        ]


def pays(worths: Sequence[Worth]) -> bool | None:
    """Say whether answers beat chance for some part; None: too few users were counted to say that they do not."""
    if any(weight for worth in worths for weight in worth.weights.values()):
        return True
    return False if sum(worth.users for worth in worths) >= LEAST_TO_KEEP else None


NOT_PAYING = (
    "do not pay: users of both domains chose none of their kinds more often than random items; none is inserted"
)
NOT_KNOWN = (
    f"could not be measured on {LEAST_TO_KEEP} users of both domains, and on fewer no kind of them beat chance; "
    "none is inserted"
)


def with_signals(answers: pl.DataFrame, signals: Signals) -> pl.DataFrame:
    """Add the columns of SIGNALS; null where the answer has no item."""
    pairs = answers.select("user_id", "item_id", domain="to_domain")
    found = signals.of(pairs.filter(pl.col("item_id").is_not_null()).unique(maintain_order=True))
    keys = ["user_id", "to_domain", "item_id"]
    return answers.join(found.rename({"domain": "to_domain"}), on=keys, how="left", maintain_order="left")


def with_bands(answers: pl.DataFrame, edges: Sequence[float]) -> pl.DataFrame:
    """Add `band`: 0 for the most relevant, BANDS more for what is not faithful."""
    below = pl.sum_horizontal(pl.lit(0), *(pl.col("relevance") < edge for edge in edges))
    unfaithful = pl.col("faithfulness") < pl.col("faithfulness_threshold")
    band = (below + pl.when(unfaithful).then(BANDS).otherwise(0)).cast(pl.Int32)
    return answers.with_columns(band=pl.when(pl.col("relevance").is_not_null()).then(band))


def fit_relevance(
    fitted: pa.Table, held_out: pa.Table, signals: Signals, catalogue: Catalogue, domain: str, seed: int
) -> Relevance:
    """Fit to the choices that the users of some probes made in a domain, and measure on those of others."""
    halves = [
        signals.of(with_random_items(hidden_truth(probes), catalogue, domain, seed)) for probes in (fitted, held_out)
    ]
    if min(half["user_id"].n_unique() for half in halves) < LEAST_TO_FIT:
        return TEXT_ALONE
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    fit, others = halves
    model = LogisticRegression(max_iter=1000).fit(_features(fit), fit["chosen"].to_numpy())
    found = Relevance(tuple(round(float(each), 5) for each in model.coef_[0]))
    chosen = others["chosen"].to_numpy()
    areas = (float(roc_auc_score(chosen, each)) for each in (found.score(others), others["text"].to_numpy()))
    return Relevance(found.coefficients, *(round(area, 4) for area in areas))


def measure_worth(answers: pl.DataFrame, probes: pa.Table, items: pa.Table) -> Worth:
    """Count how often the answers of one pair of domains were chosen, in bands of relevance.

    `answers` has the users that are counted, each item once a user, with `relevance`.
    """
    if answers.is_empty():
        return UNKNOWN
    cuts = [1 - number / BANDS for number in range(1, BANDS)]
    edges = tuple(float(answers["relevance"].quantile(cut, "higher") or 0) for cut in cuts)
    banded = with_bands(answers, edges).with_columns(truth=pl.lit("hidden"))
    bands = [each | {"weight": weight_of(each["low"], each["chance"])} for each in
             shares(banded, hidden_truth(probes), same_item(items), ["band"])]  # fmt: skip
    return Worth(edges, tuple(bands), answers["user_id"].n_unique())


def weight_of(low: float, chance: float) -> float:
    """Return the weight of items of which at least a share `low` is chosen, where of random ones `chance` is.

    It is by how much the share surely exceeds chance: a training target that is right with probability p counts p.
    """
    return round(max(0.0, low - chance), 5)


@dataclass(frozen=True)
class Evidence:
    """What a noise filter is learnt from: probes, the answers that `find` finds for some of them, and the items."""

    probes: pa.Table
    find: Callable[[pa.Table], pl.DataFrame]
    signals: Signals
    catalogue: Catalogue
    items: pa.Table

    def part(self, number: int, seed: int) -> pa.Table:
        """Return the probes of the users of a part; numbers go round."""
        parts = np.array(parts_of(self.probes["real_user_id"].to_pylist(), seed), dtype=np.int64)
        return self.probes.filter(pa.array(parts == number % PARTS))


def pairs_in(parts: Iterable[pa.Table]) -> list[tuple[str, str]]:
    """Return the pairs of domains that questions, given in parts, were about, in order."""
    pairs = pl.concat(frame_of(part).select(PAIR).unique() for part in parts).unique().sort(PAIR)
    return [(source, target) for source, target in pairs.iter_rows()]


def load_or_learn(
    evidence: Evidence, pairs: Sequence[tuple[str, str]], asked_how: Mapping[str, Any], seed: int, cache: KeyedCache
) -> NoiseFilter:
    """Return the noise filter for answers in these pairs of domains: what is kept, else learnt.

    `asked_how` is what answers depend on besides users and items: of other values other answers are measured.
    """
    learnt = []
    for number in range(PARTS):
        relevances = _load_or_fit_relevances(evidence, number, sorted({target for _, target in pairs}), seed, cache)
        keys = {pair: _key("worth", BANDS, number, pair, asked_how, asdict(relevances[pair[1]])) for pair in pairs}
        worths = _load_or_measure_worths(evidence, number, relevances, keys, seed, cache)
        learnt.append(Learnt(relevances, worths))
    names = (evidence.probes[column].to_pylist() for column in ("user_id", "real_user_id"))
    return NoiseFilter(learnt, dict(zip(*names, strict=True)), seed)


def keep_verdicts(noise_filter: NoiseFilter, asked_how: Mapping[str, Any], seed: int, cache: KeyedCache) -> None:
    """Keep for later runs which pairs of domains pay; a verdict that is kept already is not written again."""
    known = {pair: {"pays": paid} for pair, paid in noise_filter.verdicts().items() if paid is not None}
    keys = {pair: _key("pays", pair, asked_how, seed) for pair in known}
    held = _held(cache, keys.values())
    _keep(cache, {key: known[pair] for pair, key in keys.items() if held.get(key) != known[pair]})


def unpaying(
    pairs: Sequence[tuple[str, str]], asked_how: Mapping[str, Any], seed: int, cache: KeyedCache
) -> list[tuple[str, str]]:
    """Return the pairs of domains whose answers were measured not to pay, when they were asked for in this way."""
    keys = {pair: _key("pays", pair, asked_how, seed) for pair in pairs}
    held = _held(cache, keys.values())
    return [pair for pair, key in keys.items() if held.get(key) == {"pays": False}]


def _load_or_fit_relevances(
    evidence: Evidence, number: int, domains: Sequence[str], seed: int, cache: KeyedCache
) -> dict[str, Relevance]:
    """Return how relevance follows for the users of a part: learnt from the next one, measured on the one after."""
    encoder = (evidence.catalogue.model, evidence.catalogue.revision)
    keys = {domain: _key("relevance", number, domain, encoder, seed) for domain in domains}
    held = _held(cache, keys.values())
    found = {domain: _relevance(held[key]) for domain, key in keys.items() if key in held}
    fitted, others = evidence.part(number + 1, seed), evidence.part(number + 2, seed)
    for domain in domains:
        if domain not in found:
            found[domain] = fit_relevance(fitted, others, evidence.signals, evidence.catalogue, domain, seed)
    new = {key: asdict(found[domain]) for domain, key in keys.items() if key not in held}
    _keep(cache, {key: each for key, each in new.items() if each["auc"] is not None})
    return found


def _load_or_measure_worths(
    evidence: Evidence, number: int, relevances: Mapping[str, Relevance], keys: Mapping[tuple[str, str], str],
    seed: int, cache: KeyedCache,
) -> dict[tuple[str, str], Worth]:  # fmt: skip
    held = _held(cache, keys.values())
    found = {pair: _worth(held[key]) for pair, key in keys.items() if key in held}
    missing = [pair for pair in keys if pair not in found]
    if missing:
        counted = evidence.part(number + 2, seed)
        answers = with_signals(evidence.find(counted.select(SEQUENCES.tables[""].names)), evidence.signals)
        found |= {pair: _measured(answers, pair, relevances[pair[1]], counted, evidence.items) for pair in missing}
        sure = {keys[pair]: asdict(found[pair]) for pair in missing if found[pair].users >= LEAST_TO_KEEP}
        _keep(cache, sure)
    return found


def _measured(
    answers: pl.DataFrame, pair: tuple[str, str], relevance: Relevance, probes: pa.Table, items: pa.Table
) -> Worth:
    """Measure the answers of one pair to the probes without the pair's target domain, each item once a user."""
    hidden = frame_of(probes).select("user_id", to_domain="hidden_domain")
    theirs = answers.filter(
        pl.col("item_id").is_not_null(), pl.col("from_domain") == pair[0], pl.col("to_domain") == pair[1]
    ).join(hidden, on=["user_id", "to_domain"], how="semi")
    closest = theirs.sort("faithfulness", "index", descending=[True, False])
    once = closest.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    return measure_worth(relevance.add_to(once), probes, items)


def _relevance(kept: Mapping[str, Any]) -> Relevance:
    return Relevance(tuple(kept["coefficients"]), kept["auc"], kept["text_auc"])


def _worth(kept: Mapping[str, Any]) -> Worth:
    return Worth(tuple(kept["edges"]), tuple(kept["bands"]), kept["users"])


def _features(signals: pl.DataFrame) -> np.ndarray:
    return signals.select(pl.col("shared", "popularity").log1p(), "text").to_numpy()


def with_random_items(truth: pl.DataFrame, catalogue: Catalogue, domain: str, seed: int) -> pl.DataFrame:
    """Return (user_id, domain, item_id, chosen): the choices that have a text, and random items beside each."""
    rows = catalogue.texts_of(domain)
    has_text = pl.Series(np.isin(catalogue.rows(truth["item_id"].to_arrow()), rows))
    real = truth.filter(has_text).select("user_id", "domain", "item_id", chosen=pl.lit(1)).sort("user_id", "item_id")
    drawn = np.random.default_rng(seed).choice(rows, len(real) * RANDOM_ITEMS) if len(rows) else rows
    ids = pl.Series(pl.from_arrow(catalogue.item_ids.take(pa.array(drawn))))
    users = real["user_id"].to_arrow().take(pa.array(np.repeat(np.arange(len(real)), RANDOM_ITEMS)))
    random = pl.DataFrame({"user_id": pl.from_arrow(users), "item_id": ids}).select(
        "user_id", "item_id", domain=pl.lit(domain), chosen=pl.lit(0)
    )
    others = random.join(truth, on=["user_id", "item_id"], how="anti")
    return pl.concat([real, others.select(real.columns)])


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _held(cache: KeyedCache, keys: Iterable[str]) -> dict[str, Any]:
    return {row["key"]: json.loads(row["fitted"]) for row in cache.get(list(keys)).to_pylist()}


def _keep(cache: KeyedCache, fitted: Mapping[str, Mapping[str, Any]]) -> None:
    if fitted:
        cache.put(pa.table({"key": list(fitted), "fitted": [json.dumps(each) for each in fitted.values()]}))
