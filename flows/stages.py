"""Every stage, in the order of a run: what it reads, makes and depends on; its work stands in `flows.work`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from data_lake.lake import Engine, Lake, Stage
from flows.gate import READS as GATE_READS
from flows.models import Models
from flows.settings import Settings, TrainSettings
from flows.stage_spec import StageSpec, all_but
from flows.work import augment, data, profile, training
from model.config import MACHINE, EvaluateConfig, RecommendConfig
from pipeline.llm.prompts import PROFILE_REPLY, load_prompt

ON_MACHINE = ("batch_size", "device", "stream")
"""Settings of evaluation and recommendation that change no result."""


def _embed_items_reads(settings: Settings) -> tuple[str, ...]:
    return ("items", "item_descriptions") if settings.describe.is_on else ("items",)


def _with_examples(settings: Settings) -> bool:
    return settings.enrich.examples > 0


def _assemble_reads(settings: Settings) -> tuple[str, ...]:
    enriched = ("augmented_sequences", "profile_embeddings") if settings.enrich.is_on else ("sequences",)
    return (*enriched, "items", "item_embeddings")


def _reply_form(settings: Settings) -> dict[str, str]:
    return {"reply_form": PROFILE_REPLY[settings.profile.reply]}


LIMITS = ("llm.max_failed", "llm.max_useless", "llm.max_alike")
"""Settings that end a stage and change no result."""

ON_TRAINING_MACHINE = ("processes", *MACHINE)

SPECS: tuple[StageSpec, ...] = (
    StageSpec(
        name="ingest",
        version=4,
        reads=(),
        makes=("interactions", "items", "queries", "rejects"),
        settings=("data", "split.by", "split.validation_queries", "split.test_queries", "lake.actions_per_part"),
        work=data.ingest,
        sources=lambda settings: [*settings.data.sources(), *settings.split.sources()],
    ),
    StageSpec(
        name="split",
        version=1,
        reads=("interactions", "queries"),
        makes=("sequences",),
        settings=("split",),
        work=data.split,
    ),
    StageSpec(
        name="describe_items",
        version=1,
        reads=("items",),
        makes=("item_descriptions",),
        settings=(
            "describe.attributes", "describe.goes_with", "describe.title_tokens", "describe.max_tokens",
            "describe.prompt", "domains.describe",
        ),
        machine=("describe.rows_per_shard", *LIMITS),
        work=data.describe_items,
        describes=True,
        asks=True,
        by_domain=True,
    ),
    StageSpec(
        name="embed_items",
        version=1,
        reads=_embed_items_reads,
        makes=("item_embeddings",),
        settings=(),
        machine=("embed.rows_per_shard",),
        work=data.embed_items,
        encodes=True,
    ),
    StageSpec(
        name="probe",
        version=2,
        reads=("sequences",),
        makes=("probes",),
        settings=("enrich.probes", "enrich.seed"),
        work=augment.probe,
        enriches=True,
    ),
    StageSpec(
        name="represent",
        version=4,
        reads=("sequences", "probes", "item_embeddings"),
        makes=("representatives",),
        settings=("enrich.representatives", "enrich.prompt_share", "enrich.budget"),
        work=augment.represent,
        enriches=True,
        by_domain=True,
    ),
    StageSpec(
        name="generate_items",
        version=7,
        reads=lambda settings: (
            "items", "representatives",
            *(("sequences",) if _with_examples(settings) or augment.with_candidates(settings) else ()),
            *(("probes",) if settings.enrich.users or augment.with_candidates(settings) else ()),
            *(("item_embeddings",) if augment.with_candidates(settings) else ()),
        ),
        makes=("generated_items",),
        settings=(
            "enrich.users", "enrich.noise_filter", "enrich.seed", "enrich.pairs", "enrich.max_tokens",
            "enrich.exact_up_to", *augment.ASKED_HOW,
        ),
        constants=lambda settings: {"example": load_prompt("example")} if _with_examples(settings) else {},
        machine=("enrich.rows_per_shard", *LIMITS),
        work=augment.generate_items,
        enriches=True,
        asks=True,
        by_domain=True,
    ),
    StageSpec(
        name="ground",
        version=5,
        reads=("sequences", "probes", "items", "item_embeddings", "representatives", "generated_items"),
        makes=("grounded_items",),
        settings=(
            "enrich.noise_filter", "enrich.faithful_quantile", "enrich.sample", "enrich.seed", "enrich.exact_up_to",
            *augment.ASKED_HOW,
        ),
        machine=("enrich.rows_per_shard",),
        work=augment.ground,
        enriches=True,
        encodes=True,
        by_domain=True,
    ),
    StageSpec(
        name="measure_answers",
        version=3,
        reads=("sequences", "probes", "items", "item_embeddings", "representatives", "grounded_items"),
        makes=("answer_lift",),
        settings=(
            "enrich.prompt_share", "enrich.exact_up_to", "enrich.ask", "enrich.candidates", "enrich.seed",
            "profile.clusters", "profile.seed",
        ),
        work=augment.measure_answers,
        enriches=True,
        by_domain=True,
    ),
    StageSpec(
        name="insert",
        version=3,
        reads=("sequences", "item_embeddings", "grounded_items"),
        makes=("augmented_sequences",),
        settings=("enrich.prompt_share", "enrich.place"),
        work=augment.insert,
        enriches=True,
        by_domain=True,
    ),
    StageSpec(
        name="profile_domains",
        version=9,
        reads=("items", "item_embeddings", "augmented_sequences"),
        makes=("domain_profiles",),
        settings=(
            "enrich.users", "profile.clusters", "profile.seed", "profile.last_items", "profile.words",
            "profile.title_tokens", "profile.max_tokens", "profile.reply", "profile.domain_prompt", "domains.describe",
            "domains.profile_prompt",
        ),
        machine=("profile.rows_per_shard", *LIMITS),
        constants=_reply_form,
        work=profile.profile_domains,
        enriches=True,
        asks=True,
        by_domain=True,
    ),
    StageSpec(
        name="profile_users",
        version=7,
        reads=("domain_profiles",),
        makes=("user_profiles",),
        settings=("profile.words", "profile.user_words", "profile.max_tokens", "profile.reply", "profile.user_prompt"),
        machine=("profile.rows_per_shard", *LIMITS),
        constants=_reply_form,
        work=profile.profile_users,
        enriches=True,
        asks=True,
    ),
    StageSpec(
        name="embed_profiles",
        version=3,
        reads=("domain_profiles", "user_profiles", "augmented_sequences", "item_embeddings"),
        makes=("profile_embeddings",),
        settings=("profile.last_items",),
        constants=lambda settings: {"scopes": profile.profile_scopes(settings, ["each domain"])},
        machine=(
            "embed.rows_per_shard", "train.aggregate", "train.pretrain.align_weight", "train.finetune.align_weight",
        ),
        work=profile.embed_profiles,
        enriches=True,
        encodes=True,
        by_domain=True,
    ),
    StageSpec(
        name="assemble",
        version=3,
        reads=_assemble_reads,
        makes=("training_set",),
        settings=("data.times",),
        constants=lambda settings: {"candidates_seed": data.CANDIDATES_SEED},
        work=data.assemble,
        by_domain=True,
    ),
    StageSpec(
        name="pretrain",
        version=9,
        reads=("training_set",),
        makes=("pretrained",),
        settings=all_but("train", TrainSettings, "finetune", *ON_TRAINING_MACHINE),
        machine=tuple(f"train.{name}" for name in ON_TRAINING_MACHINE),
        work=training.pretrain,
    ),
    StageSpec(
        name="finetune",
        version=10,
        reads=("training_set", "pretrained"),
        makes=("checkpoint",),
        settings=all_but("train", TrainSettings, "pretrain", *ON_TRAINING_MACHINE),
        machine=(*(f"train.{name}" for name in ON_TRAINING_MACHINE), *GATE_READS),
        work=training.finetune,
        check=training.check_checkpoint,
    ),
    StageSpec(
        name="evaluate",
        version=1,
        reads=("training_set", "pretrained", "checkpoint"),
        makes=("metrics", "ranks"),
        settings=all_but("evaluate", EvaluateConfig, *ON_MACHINE),
        machine=tuple(f"evaluate.{name}" for name in ON_MACHINE),
        work=training.evaluate,
    ),
    StageSpec(
        name="recommend",
        version=2,
        reads=("training_set", "checkpoint"),
        makes=("recommendations",),
        settings=all_but("recommend", RecommendConfig, *ON_MACHINE),
        machine=tuple(f"recommend.{name}" for name in ON_MACHINE),
        work=training.recommend,
        sources=lambda settings: settings.recommend.sources(),
    ),
)  # fmt: skip

STAGES = tuple(spec.name for spec in SPECS)
"""The names of all stages, in the order of a run."""

if TYPE_CHECKING:
    StageName = StrEnum
else:
    StageName = StrEnum("StageName", {name.upper(): name for name in STAGES}, module=__name__)
    StageName.__doc__ = "A stage, for who chooses one from a list."

ASKING = {spec.name: spec.makes[0] for spec in SPECS if spec.asks}
"""The stages that ask a generator, and what each makes."""


def open_lake(settings: Settings, engine: Engine | None = None) -> Lake:
    """Return the lake of the settings' dataset; `engine` makes the shards of its stages, by default this process."""
    return Lake(settings.lake.root, settings.dataset, settings.lake.keep, engine=engine)


def stages(settings: Settings, models: Models, specs: Sequence[StageSpec] = SPECS) -> list[Stage]:
    """Return the stages that the settings turn on, in order."""
    return [spec.stage(settings, models) for spec in specs if spec.is_on(settings)]
