import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.layers.pooling import prefix_cluster_pooling


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), length=st.integers(1, 8), clusters=st.integers(1, 4), scale=st.sampled_from([1, 8]))
def test_pooling_equals_the_loops_for_every_prefix(seed, length, clusters, scale):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2, length, 3)).astype(np.float32)
    scores = (rng.normal(size=(2, length)) * scale).astype(np.float32)
    members = rng.random((2, length, clusters)) < 0.5
    pooled, present = prefix_cluster_pooling(*map(torch.from_numpy, (vectors, scores, members)))
    for row in range(2):
        for t in range(length):
            for f in range(clusters):
                inside = [j for j in range(t + 1) if members[row, j, f]]
                assert bool(present[row, t, f]) == bool(inside)
                weights = np.exp(scores[row, inside].astype(np.float64))
                want = (weights[:, None] * vectors[row, inside]).sum(0) / weights.sum() if inside else np.zeros(3)
                np.testing.assert_allclose(pooled[row, t, f].numpy(), want, rtol=1e-3, atol=1e-4)


def test_padding_with_a_huge_score_does_not_drown_the_items():
    vectors = torch.ones(1, 3, 2)
    scores = torch.tensor([[0.0, 1.0, 1e6]])
    members = torch.tensor([[[True], [True], [False]]])
    pooled, present = prefix_cluster_pooling(vectors, scores, members)
    torch.testing.assert_close(pooled[0, 1, 0], torch.ones(2))
    assert present.all()
