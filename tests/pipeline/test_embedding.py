import numpy as np
import pytest

from data_lake.keyed_cache import KeyedCache
from pipeline.config import EmbedConfig
from pipeline.vectors import embedding
from pipeline.vectors.embedding import (
    CachedEmbed,
    EmbedProcess,
    SentenceEmbedder,
    fastest_precision,
    token_batches,
)

TEXTS = ["rice cooker", "steam cooker for rice", "a novel about the sea", "rice cooker"]


class Lengths:
    """A text's vector tells its length and its first letter."""

    model, revision = "lengths", "1"

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32).reshape(-1, 2)


@pytest.fixture(scope="module")
def minilm():
    return SentenceEmbedder(EmbedConfig())


@pytest.fixture(scope="module")
def process():
    embed = EmbedProcess(EmbedConfig())
    yield embed
    embed.close()


def test_vectors_have_length_one_and_near_texts_near_vectors(minilm):
    vectors = minilm(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.6 > 0.3 > far
    assert np.array_equal(vectors[0], vectors[3])


def test_the_order_of_the_texts_changes_no_bit(minilm):
    assert np.array_equal(minilm(TEXTS[::-1]), minilm(TEXTS)[::-1])


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_bf16", "bfloat16"),
        ("Features\t: fp asimd bf16 i8mm", "bfloat16"),
        ("flags\t\t: fpu avx2 avx512f", "float32"),
        ("", "float32"),
    ],
)
def test_texts_are_encoded_in_bfloat16_where_the_processor_has_units_for_it(flags, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\nbugs\t: bf16\n")
    assert fastest_precision("cpu") == precision


def test_a_system_that_tells_nothing_of_its_processor_encodes_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "CPUINFO", tmp_path / "cpuinfo")
    assert fastest_precision("cpu") == "float32"


def test_vectors_of_both_precisions_are_nearly_the_same_and_are_told_apart():
    exact, fast = (SentenceEmbedder(EmbedConfig(precision=each)) for each in ("float32", "bfloat16"))
    assert fast.revision == f"{exact.revision} bfloat16"
    ours, theirs = exact(TEXTS), fast(TEXTS)
    assert theirs.dtype == np.float32
    assert np.allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-6)
    assert (ours * theirs).sum(1).min() > 0.999
    assert not np.array_equal(ours, theirs)


def test_a_batch_on_a_gpu_holds_as_many_tokens_of_short_texts_as_of_long_ones():
    assert token_batches([9, 5, 4, 2, 1, 1], tokens=8) == [slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 12)]
    assert token_batches([], tokens=8) == []


def test_a_process_of_its_own_gives_the_same_vectors_and_ends_when_closed(minilm, process):
    assert (process.model, process.revision) == (minilm.model, minilm.revision)
    assert process._worker.pid is None
    assert np.allclose(process(TEXTS), minilm(TEXTS), atol=1e-6)
    assert process([]).shape == (0, 384)
    process.close()
    assert process._worker.pid is None


def test_what_must_not_be_in_memory_beside_the_encoder_is_ended_before_it_starts():
    ended = []

    def end_the_other():
        ended.append("the other")
        raise InterruptedError

    embed = EmbedProcess(EmbedConfig(), end_the_other)
    assert ended == []
    with pytest.raises(InterruptedError):
        embed(TEXTS)
    assert ended == ["the other"]
    assert embed._worker.pid is None


def test_a_text_is_encoded_once_for_ever(tmp_path):
    first = Lengths()
    embed = CachedEmbed(first, KeyedCache(tmp_path))
    assert embed(["bb", "a", "bb"]).tolist() == [[2, 98], [1, 97], [2, 98]]
    assert first.asked == ["bb", "a"]
    second = Lengths()
    later = CachedEmbed(second, KeyedCache(tmp_path))
    assert later(["c", "a", "dd", "bb"]).tolist() == [[1, 99], [1, 97], [2, 100], [2, 98]]
    assert second.asked == ["c", "dd"]
    assert later.counts() == {"asked": 2, "reused": 2}
    assert later.counts() == {"asked": 0, "reused": 0}


def test_another_revision_has_vectors_of_its_own(tmp_path):
    CachedEmbed(Lengths(), KeyedCache(tmp_path))(["a"])
    other = Lengths()
    other.revision = "2"
    CachedEmbed(other, KeyedCache(tmp_path))(["a"])
    assert other.asked == ["a"]


def test_no_text_needs_no_cache(tmp_path):
    assert CachedEmbed(Lengths(), KeyedCache(tmp_path))([]).shape == (0, 2)
