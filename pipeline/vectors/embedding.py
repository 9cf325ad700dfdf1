"""Turn texts into vectors: sentence-transformers here or in a process of its own, and the cache of vectors.

Run as a module it is that process.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_lake.keyed_cache import KeyedCache
from data_lake.progress import progress
from pipeline.config import EmbedConfig
from pipeline.model_identity import identify
from pipeline.processes.worker import Link, Worker
from pipeline.vectors.catalogue import matrix

TEXTS_PER_MESSAGE = 4096

CPUINFO, NVIDIA = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia")
"""Where Linux tells of the processor and of NVIDIA's driver."""
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How x86 and Arm processors call them."""


class Embed(Protocol):
    """Encodes texts; `model` and `revision` say with what."""

    @property
    def model(self) -> str:
        """Name of the model, without a path."""

    @property
    def revision(self) -> str:
        """What identifies the model's weights: a commit, or the hash of its files."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32 vectors of length one, in the order of `texts`."""


class _Identified:
    """Name and revision of the settings' model, without loading it."""

    def __init__(self, cfg: EmbedConfig) -> None:
        self._identity = identify(cfg.model, cfg.revision, section="embed")
        self.precision = fastest_precision(cfg.device) if cfg.precision == "auto" else cfg.precision

    @property
    def model(self) -> str:
        """Name of the model, without a path."""
        return self._identity.name

    @property
    def revision(self) -> str:
        """Commit of a hub model, or the hash of a folder's files; and the precision, where that is no float32."""
        return self._identity.revision + ("" if self.precision == "float32" else f" {self.precision}")


class SentenceEmbedder(_Identified):
    """A sentence-transformers model in this process, loaded at the first text."""

    def __init__(self, cfg: EmbedConfig, on_batch: Callable[[int], None] = lambda texts: None) -> None:
        """`on_batch` is called with the number of texts after each batch."""
        super().__init__(cfg)
        self.cfg, self._on_batch = cfg, on_batch
        self._model: Any = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32 vectors of length one, in the order of `texts`."""
        distinct, indices = _longest_first(texts)
        if self._model is None:
            self._model = self._load()
        vectors = self._encode(distinct or [""]).astype(np.float32, copy=False)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[indices]  # in bfloat16 they are only nearly

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Encode texts, the longest first. A CPU is busy with a few short texts, too; a GPU wants as many tokens."""
        size, longest = self.cfg.batch_size, self._model.max_seq_length
        batches = [slice(None)]
        if self._model.device.type != "cpu" and longest:
            lengths = [len(ids) for ids in self._model.tokenizer(texts, truncation=True)["input_ids"]]
            batches = token_batches(lengths, size * longest)
            size = len(texts)
        return np.concatenate(
            [self._model.encode(texts[each], batch_size=size, show_progress_bar=False) for each in batches]
        )

    def _load(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        device = None if self.cfg.device == "auto" else self.cfg.device
        revision = None if self._identity.is_folder else self._identity.revision
        model = SentenceTransformer(
            self._identity.source,
            device=device,
            revision=revision,
            local_files_only=self._identity.is_folder,
            model_kwargs={"dtype": getattr(torch, self.precision)},
        )
        model[0].register_forward_hook(lambda _, given, __: self._on_batch(len(given[0]["input_ids"])))
        return model


class EmbedProcess(_Identified):
    """A `SentenceEmbedder` in a child process, started at the first text and ended by `close`."""

    def __init__(self, cfg: EmbedConfig, before_start: Callable[[], None] = lambda: None) -> None:
        super().__init__(cfg)
        self._worker = Worker("pipeline.vectors.embedding", cfg.model_dump(), before_start=before_start)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32 vectors of length one, in the order of `texts`."""
        distinct, indices = _longest_first(texts)
        parts = []
        with progress("embedding", len(distinct), "texts") as work:
            for start in range(0, len(distinct) or 1, TEXTS_PER_MESSAGE):
                self._worker.send(pa.table({"text": distinct[start : start + TEXTS_PER_MESSAGE]}))
                while isinstance(answer := self._worker.receive(), dict):
                    work.advance(answer["done"])
                parts.append(matrix(answer["vector"])[0])
        return np.concatenate(parts)[indices]

    def close(self, patience: float = 15.0) -> None:
        """End the process and free its memory; the next text starts it again."""
        self._worker.close(patience)


class CachedEmbed:
    """An `Embed` that encodes a text once; after that its vector comes from the cache."""

    def __init__(self, embed: Embed, cache: KeyedCache) -> None:
        self.embed, self.cache = embed, cache
        self._asked = self._reused = 0

    @property
    def model(self) -> str:
        """Name of the model, without a path."""
        return self.embed.model

    @property
    def revision(self) -> str:
        """What identifies the model's weights."""
        return self.embed.revision

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32 vectors of length one, in the order of `texts`."""
        if not texts:
            return self.embed(texts)
        distinct = list(dict.fromkeys(texts))
        keys = [vector_key(self.model, self.revision, text) for text in distinct]
        held = self.cache.get(keys)
        rows = dict(zip(held["key"].to_pylist(), range(held.num_rows), strict=True))
        new = [index for index, key in enumerate(keys) if key not in rows]
        self._asked += len(new)
        self._reused += len(distinct) - len(new)
        parts = [matrix(held["vector"])[0]] if held.num_rows else []
        if new:
            made = self.embed([distinct[index] for index in new])
            self.cache.put(_table([keys[index] for index in new], made))
            parts.append(made)
            rows |= {keys[index]: held.num_rows + row for row, index in enumerate(new)}
        vectors = np.concatenate(parts)
        row_of = dict(zip(distinct, (rows[key] for key in keys), strict=True))
        return vectors[[row_of[text] for text in texts]]

    def counts(self) -> dict[str, Any]:
        """Return the texts that were `asked` and `reused` since the last call."""
        counts = {"asked": self._asked, "reused": self._reused}
        self._asked = self._reused = 0
        return counts


def fastest_precision(device: str) -> str:
    """Return "bfloat16" where the device has units for it, else "float32". device: as in the settings."""
    if device != "cpu" and NVIDIA.exists():
        import torch

        if torch.cuda.is_available():
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.exists() else None
    return "bfloat16" if flags and BF16_UNITS & set(flags[1].split()) else "float32"


def token_batches(lengths: Sequence[int], tokens: int) -> list[slice]:
    """Cut texts of these lengths, in tokens and falling, into batches of at most `tokens` with their padding.

    A batch holds one text at least.
    """
    batches, start = [], 0
    while start < len(lengths):
        batches.append(slice(start, start + max(1, tokens // max(1, lengths[start]))))
        start = batches[-1].stop
    return batches


def vector_key(model: str, revision: str, text: str) -> str:
    """Return the key of a text's vector in the cache."""
    return hashlib.sha256("\0".join([model, revision, text]).encode()).hexdigest()


def embed_texts(texts: pa.ChunkedArray, embed: Embed) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, d) vectors and which rows have a text. Equal texts are encoded once."""
    coded = pc.dictionary_encode(texts).combine_chunks()
    distinct = coded.dictionary.to_pylist()
    encoded = embed(distinct) if distinct else np.zeros((0, embed(["-"]).shape[1]), dtype=np.float32)
    has_text = np.asarray(coded.indices.is_valid())
    vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
    vectors[has_text] = encoded[coded.indices.drop_null().to_numpy()]
    return vectors, has_text


def signed(embed: Embed, rows: int, ending: str = "") -> list[pa.Array]:
    """Return the columns `model` and `revision`, the second with an `ending`."""
    return [pa.repeat(pa.scalar(text), rows) for text in (embed.model, embed.revision + ending)]


def _longest_first(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the distinct texts by falling length, and the index of each of `texts` among them."""
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    index = {text: i for i, text in enumerate(distinct)}
    return distinct, [index[text] for text in texts]


def _table(keys: Sequence[str], vectors: np.ndarray) -> pa.Table:
    flat = pa.array(vectors.reshape(-1), pa.float32())
    return pa.table({"key": keys, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})


def main() -> None:
    """Load the model that the first message names, then answer tables of texts with tables of vectors.

    Before the table there comes {done: texts} after each batch.
    """
    link = Link()
    config = link.receive()
    embed = SentenceEmbedder(EmbedConfig(**config), lambda texts: link.send({"done": texts}))
    while (message := link.receive()) is not None:
        texts = message["text"].to_pylist()
        link.send(_table([""] * len(texts), embed(texts)))


if __name__ == "__main__":
    main()
