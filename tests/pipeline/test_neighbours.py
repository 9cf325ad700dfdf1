import builtins

import numpy as np
import pytest

from data_lake.errors import UserError
from pipeline.vectors.neighbours import Index, build


def cloud(rows, seed=0, width=16):
    """Vectors of length one around 50 directions, as texts of one kind lie together."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(50, width))
    vectors = centres[rng.integers(0, 50, rows)] + 0.4 * rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_there_is_an_index_only_above_the_size_that_is_set():
    assert build(cloud(100), 100) is None
    assert isinstance(build(cloud(101), 100), Index)


def test_an_index_finds_nearly_all_that_the_matrix_product_finds_and_measures_it():
    vectors, queries = cloud(20_000), cloud(500, seed=1)
    index = Index(vectors)
    rows, scores = index.search(queries, 5)
    exact = (queries @ vectors.T).argmax(axis=1)
    recall = (rows[:, 0] == exact).mean()
    assert recall > 0.9
    assert index.checked == 64
    assert abs(index.found / index.checked - recall) < 0.1
    assert np.allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    again, _ = Index(vectors).search(queries, 5)
    assert np.array_equal(rows, again)


def test_fewer_neighbours_than_asked_for_are_marked():
    rows, scores = Index(cloud(3)).search(cloud(2, seed=1), 5)
    assert sorted(rows[0]) == [-1, -1, 0, 1, 2]
    assert np.isneginf(scores[rows < 0]).all()
    assert [part.shape for part in Index(cloud(3)).search(cloud(0), 5)] == [(0, 5), (0, 5)]


def test_a_machine_without_faiss_is_told_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "faiss":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"install the extra `index`"):
        Index(cloud(10))
