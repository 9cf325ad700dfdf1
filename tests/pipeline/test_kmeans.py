import numpy as np

from pipeline.vectors.kmeans import kmeans, nearest_points, spread_starts


def test_of_two_points_that_are_a_group_the_first_stands_for_it_whatever_the_processor_rounds():
    drawn = np.random.default_rng(0).normal(size=(200, 3, 64)).astype(np.float32)
    drawn[:, 1] = drawn[:, 0] + 0.1 * drawn[:, 1]
    points = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    centres, group = kmeans(points, spread_starts(points, 2))
    assert (group[:, 0] == group[:, 1]).all()
    assert nearest_points(points, centres, group).tolist() == [[True, False, True]] * 200
