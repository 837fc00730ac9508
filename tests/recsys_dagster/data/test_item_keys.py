import numpy as np

from recsys_dagster.data.item_keys import read_item_keys, rows_of, write_item_keys


def test_rows_follow_the_keys():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]], dtype=np.float32)
    found, known = rows_of(["b", "new", "a"], vectors, ["a", "b", "gone"])
    assert known.tolist() == [True, False, True]
    assert found.tolist() == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]  # the mean is of those that are left
    assert found.dtype == np.float32
    alone, known = rows_of(["new"], vectors, ["a", "b", "gone"])
    assert (alone.tolist(), known.tolist()) == ([[0.0, 0.0]], [False])


def test_keys_are_kept(tmp_path):
    assert read_item_keys(tmp_path) is None
    write_item_keys(tmp_path, ["ä", 'quo"te', "007"])
    assert read_item_keys(tmp_path) == ["ä", 'quo"te', "007"]
