import numpy as np
import pytest

from data_lake.keyed_cache import KeyedCache
from pipeline.config import EmbedConfig
from pipeline.vectors.embedding import CachedEmbed, EmbedProcess, SentenceEmbedder

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
