"""What each artifact holds: a pyarrow schema per table, and the check that every write and read passes."""

from dataclasses import dataclass, field

import pyarrow as pa

TIME = pa.timestamp("ms", tz="UTC")
VECTOR = pa.list_(pa.float32(), -1)
"""Stands for a vector column; on disk a fixed-size list of float32, of one length for the whole table."""

TRAIN, VALIDATION, TEST, CONTEXT = "train", "validation", "test", "context"
SPLITS = (TRAIN, VALIDATION, TEST, CONTEXT)
"""Roles of a position. `context` is a real action that may be read, and is neither trained on nor anybody's target: in
an evaluation window, or in a query's history."""

ALL = "all"
"""Scope of a profile over every domain, and the group of all users in `metrics`."""


def _field(name: str, kind: pa.DataType, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null)


def _texts() -> pa.DataType:
    return pa.list_(_field("item", pa.string()))


@dataclass(frozen=True)
class Artifact:
    """Name, tables and key of an artifact.

    `tables` maps a table's name to its schema; an artifact of one table has the single name "".
    `key` holds the columns that are unique together, per table; an empty tuple means no such columns.
    `files` says that the folder also holds files that are no tables (weights, configs).
    `open_suffix` allows more float columns whose names end so, in any table.
    """

    name: str
    tables: dict[str, pa.Schema]
    key: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: bool = False
    open_suffix: str | None = None


def _one(name: str, schema: pa.Schema, *key: str, files: bool = False, open_suffix: str | None = None) -> Artifact:
    return Artifact(name, {"": schema}, {"": key}, files, open_suffix)


_ACTION = [
    _field("user_id", pa.string()),
    _field("item_id", pa.string()),
    _field("domain", pa.string()),
    _field("timestamp", TIME),  # 2000-01-01 for all where the data tells an order only
    _field("position", pa.int32()),  # 0-based index in the user's history; the only order that later stages use
    _field("rating", pa.float32(), null=True),
]

INTERACTIONS = _one("interactions", pa.schema(_ACTION), "user_id", "position")

QUERIES = _one(  # histories of users who are not among the interactions; without rows where the split is not by queries
    "queries",
    pa.schema([*_ACTION, _field("split", pa.string())]),  # "validation" or "test", what the user's last row is
    "user_id",
    "position",
)

ITEMS = _one(
    "items",
    pa.schema(
        [
            _field("item_id", pa.string()),
            _field("domain", pa.string()),
            _field("title", pa.string(), null=True),
            _field(
                "text", pa.string(), null=True
            ),  # what is embedded: the title and further text columns; null: no text
        ]
    ),
    "item_id",
)

REJECTS = _one(
    "rejects",
    pa.schema(
        [
            _field("file", pa.string()),
            _field("line", pa.int64(), null=True),  # 1-based line of a text file, 1-based row of a Parquet file
            _field("kind", pa.string()),  # "interaction", "item" or "query"
            _field("reason", pa.string()),
            _field("row", pa.string()),  # the refused row as text, cut to 500 characters
        ]
    ),
)

_SEQUENCE = [
    _field("user_id", pa.string()),
    _field("item_ids", _texts()),
    _field("domains", _texts()),
    _field("timestamps", pa.list_(_field("item", TIME))),
    _field("splits", _texts()),  # one of SPLITS per position
]

SEQUENCES = _one("sequences", pa.schema(_SEQUENCE), "user_id")

ITEM_EMBEDDINGS = _one(
    "item_embeddings",
    pa.schema(
        [
            _field("item_id", pa.string()),
            _field("domain", pa.string()),
            _field("vector", VECTOR, null=True),  # null where the item has no text
            _field("model", pa.string()),
            _field("revision", pa.string()),  # ends in "+described" where descriptions are part of the texts
        ]
    ),
    "item_id",
)

PROBES = _one(
    "probes",
    pa.schema(
        [
            *_SEQUENCE,  # of the domains that are not hidden, training actions only; user_id: "u1 without food"
            _field("real_user_id", pa.string()),
            _field("hidden_domain", pa.string()),
            _field("hidden_items", _texts()),  # what the user chose there, in training
        ]
    ),
    "user_id",
)

ANSWER_LIFT = _one(
    "answer_lift",
    pa.schema(
        [
            _field("truth", pa.string()),  # "unshown": later training actions; "hidden": the hidden domain of probes
            _field("from_domain", pa.string()),
            _field("to_domain", pa.string()),
            _field("source", pa.string()),  # "kept" are the answers that are inserted; others to compare with
            _field("band", pa.int32(), null=True),  # first rank of the band; null: all ranks
            _field("users", pa.int64()),
            _field("answers", pa.int64()),
            _field("share", pa.float64()),  # of answers whose item the user chose
            _field("low", pa.float64()),  # 95 % interval over users
            _field("high", pa.float64()),
            _field("chance", pa.float64()),  # the share of a random item of the domain
            _field("in_cluster", pa.float64()),  # share of answers in a cluster of items that the user chose one of
            _field("in_cluster_by_chance", pa.float64()),
        ]
    ),
    "truth",
    "from_domain",
    "to_domain",
    "source",
    "band",
)

_POSITIONS = [  # from 0, in the user's row of `sequences` or, of a probe, of `probes`
    _field("seen", pa.int32(), null=True),  # of the last action that the row rests on; null: it rests on none
    _field("forbidden", pa.int32(), null=True),  # of the first one that it must not rest on; null: there is none
]

REPRESENTATIVES = _one(
    "representatives",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("domain", pa.string()),
            _field("item_ids", _texts()),  # in history order; only items with text
            _field("actions", pa.int32()),  # n_d: real actions of the domain in the shown part
            _field("budget", pa.int32()),  # items to insert into this domain
            _field("shown", pa.int32()),  # length of the shown part of the training prefix, all domains: n
            *_POSITIONS,
        ]
    ),
    "user_id",
    "domain",
)

_REPLY = [
    _field("prompt_hash", pa.string()),
    _field("reply", pa.string(), null=True),
    _field("status", pa.string()),  # "ok" or "failed"
    _field("reason", pa.string(), null=True),  # why it failed
    _field("tokens_in", pa.int32()),
    _field("tokens_out", pa.int32()),
    _field("tokens_cached", pa.int32()),
    _field("dropped", _texts()),  # of each answer in the reply that says nothing and was left out, the reason
]

ITEM_DESCRIPTIONS = _one(
    "item_descriptions",
    pa.schema(
        [
            _field("item_id", pa.string()),
            _field("domain", pa.string()),
            *_REPLY,
            _field("attributes", _texts()),  # phrases that fit things of any domain, empty if the reply failed
            _field("goes_with", _texts()),  # kinds of product of the other domains, empty if the reply failed
        ]
    ),
    "item_id",
)

GENERATED_ITEMS = _one(
    "generated_items",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("from_domain", pa.string()),
            _field("to_domain", pa.string()),
            *_POSITIONS,
            *_REPLY,
            _field("answers", _texts()),  # parsed item descriptions, empty if the reply failed
            _field("item_ids", _texts()),  # the catalogue item of each answer where the generator names it, else empty
        ]
    ),
    "user_id",
    "from_domain",
    "to_domain",
)

GROUNDED_ITEMS = _one(
    "grounded_items",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("from_domain", pa.string()),
            _field("to_domain", pa.string()),
            _field("answer_index", pa.int32()),
            _field("answer", pa.string()),
            _field("item_id", pa.string(), null=True),  # null: nothing in the catalogue was near
            _field("title", pa.string(), null=True),
            _field("faithfulness", pa.float32(), null=True),  # cosine of answer and item
            _field("faithfulness_threshold", pa.float32(), null=True),
            _field("shared", pa.float32(), null=True),  # how much users who share items with the user chose it
            _field("popularity", pa.float32(), null=True),  # how often it was chosen lately, when the prompt was made
            _field("text", pa.float32(), null=True),  # cosine of item and the user's nearest representative
            _field("relevance", pa.float32(), null=True),  # learnt from these three
            _field("band", pa.int32(), null=True),  # of relevance, 0 the most relevant; 3 more if it is not faithful
            _field("weight", pa.float32(), null=True),  # as a training target: 0 where the band does not beat chance
            _field("kept", pa.bool_()),
            _field("reason", pa.string(), null=True),  # null when kept
        ]
    ),
    "user_id",
    "from_domain",
    "to_domain",
    "answer_index",
)

AUGMENTED_SEQUENCES = _one(
    "augmented_sequences",
    pa.schema(
        [
            *_SEQUENCE,
            _field("synthetic", pa.list_(_field("item", pa.bool_()))),
            _field("weights", pa.list_(_field("item", pa.float32()))),  # of synthetic items as targets; 0 for real ones
        ]
    ),
    "user_id",
)

DOMAIN_PROFILES = _one(
    "domain_profiles",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("domain", pa.string()),
            _field("text", pa.string(), null=True),
            _field("evidence", pa.int32()),  # real training actions of the user in the domain
            _field("inferred", pa.bool_()),  # no real item: weighs nothing in the merge
            *_POSITIONS,
            *_REPLY,
        ]
    ),
    "user_id",
    "domain",
)

USER_PROFILES = _one(
    "user_profiles",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("text", pa.string(), null=True),
            _field("evidence", pa.int32()),
            *_POSITIONS,
            *_REPLY,
        ]
    ),
    "user_id",
)

PROFILE_EMBEDDINGS = _one(
    "profile_embeddings",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("scope", pa.string()),  # a domain, or "all"
            _field("vector", VECTOR, null=True),  # null where the profile failed
            _field("model", pa.string()),
            _field("revision", pa.string()),
        ]
    ),
    "user_id",
    "scope",
)

TRAINING_SET_VERSION = 3
"""2: `info` has `times`. 3: `sequences` has `weights`."""

TRAINING_SET = Artifact(
    "training_set",
    {
        "sequences": pa.schema(
            [
                _field("user", pa.int32()),
                _field("items", pa.list_(_field("item", pa.int32()))),
                _field("times", pa.list_(_field("item", pa.int64()))),  # milliseconds since 1970, UTC
                _field("splits", pa.list_(_field("item", pa.int8()))),  # index into SPLITS
                _field("synthetic", pa.list_(_field("item", pa.bool_()))),
                _field("weights", pa.list_(_field("item", pa.float32()))),  # of synthetic items as targets
            ]
        ),
        "users": pa.schema(
            [
                _field("user", pa.int32()),  # from 1
                _field("user_id", pa.string()),
                _field("key", pa.uint64()),  # hash of user_id: what evaluation candidates are drawn from
            ]
        ),
        "items": pa.schema(
            [
                _field("item", pa.int32()),  # from 1; 0 is padding
                _field("item_id", pa.string()),
                _field("domain", pa.string()),
                _field("title", pa.string(), null=True),
                _field("train_actions", pa.int64()),  # real training actions of this item, over all users
                _field("key", pa.uint64()),
            ]
        ),
        "item_vectors": pa.schema(
            [
                _field("item", pa.int32()),
                _field("vector", VECTOR, null=True),
            ]
        ),
        "profile_vectors": pa.schema(
            [
                _field("user", pa.int32()),
                _field("scope", pa.string()),
                _field("vector", VECTOR, null=True),
            ]
        ),
        "info": pa.schema(
            [
                _field("contract_version", pa.int32()),
                _field("candidates_seed", pa.int64()),
                _field("domains", _texts()),  # in the order that the settings or the data give them
                _field("times", pa.string()),  # "real", or "order": all are the same, and nothing is made of them
            ]
        ),
    },
    {
        "sequences": ("user",),
        "users": ("user",),
        "items": ("item",),
        "item_vectors": ("item",),
        "profile_vectors": ("user", "scope"),
        "info": (),
    },
)

_HISTORY = pa.schema(
    [
        _field("epoch", pa.int32()),
        _field("loss", pa.float32()),
        _field("next_item_loss", pa.float32()),
        _field("align_loss", pa.float32()),
        _field("learning_rate", pa.float32()),
        _field("protocol", pa.string()),  # what `value` was measured with, on validation
        _field("metric", pa.string()),
        _field("value", pa.float32()),
        _field("best", pa.bool_()),
    ]
)

PRETRAINED = _one("pretrained", _HISTORY, "epoch", files=True, open_suffix="_loss")
CHECKPOINT = _one("checkpoint", _HISTORY, "epoch", files=True, open_suffix="_loss")

METRICS = _one(
    "metrics",
    pa.schema(
        [
            _field("phase", pa.string()),  # "pretrain" or "finetune"
            _field("split", pa.string()),
            _field("protocol", pa.string()),  # "full", "sampled-100", "sampled-999"
            _field("domain", pa.string(), null=True),  # null: over all domains
            _field("group", pa.string()),
            _field("metric", pa.string()),  # "HR@10", "NDCG@10", "MRR", ...
            _field("value", pa.float64()),
            _field("low", pa.float64()),  # 95 % bootstrap interval over users
            _field("high", pa.float64()),
            _field("users", pa.int64()),
            _field("candidates", pa.float64()),  # mean number of candidates, the target included
        ]
    ),
    "phase",
    "split",
    "protocol",
    "domain",
    "group",
    "metric",
)

RANKS = _one(
    "ranks",
    pa.schema(
        [
            _field("phase", pa.string()),
            _field("split", pa.string()),
            _field("protocol", pa.string()),
            _field("user_id", pa.string()),
            _field("domain", pa.string()),
            _field("item_id", pa.string()),
            _field("rank", pa.int32()),  # from 1
            _field("candidates", pa.int32()),
        ]
    ),
    "phase",
    "split",
    "protocol",
    "user_id",
)

RECOMMENDATIONS = _one(
    "recommendations",
    pa.schema(
        [
            _field("user_id", pa.string()),
            _field("domain", pa.string()),
            _field("rank", pa.int32()),
            _field("item_id", pa.string()),
            _field("title", pa.string(), null=True),
            _field("score", pa.float32()),
        ]
    ),
    "user_id",
    "domain",
    "rank",
)

ARTIFACTS: dict[str, Artifact] = {
    artifact.name: artifact
    for artifact in (
        INTERACTIONS, ITEMS, QUERIES, REJECTS, SEQUENCES, ITEM_DESCRIPTIONS, ITEM_EMBEDDINGS, PROBES, REPRESENTATIVES,
        GENERATED_ITEMS, GROUNDED_ITEMS, ANSWER_LIFT, AUGMENTED_SEQUENCES, DOMAIN_PROFILES, USER_PROFILES,
        PROFILE_EMBEDDINGS, TRAINING_SET, PRETRAINED, CHECKPOINT, METRICS, RANKS, RECOMMENDATIONS,
    )
}  # fmt: skip
