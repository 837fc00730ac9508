import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.data.features import item_features
from recsys_dagster.errors import RecsysError
from recsys_dagster.layers.features import FeatureVectors


def test_mean_of_an_items_feature_vectors():
    items = pd.DataFrame({"text": ["red pen", "red ink", "", "blue pen, blue", "blue"]})
    found = item_features(items)
    assert found.names == ["blue", "pen", "red"]
    layer = FeatureVectors(5, d=4, **{"n_features": 3, "entries": len(found.features)})
    layer.fill(found)
    blue, pen, red = layer.vectors.detach()
    want = torch.stack([(pen + red) / 2, red, torch.zeros(4), (blue + pen) / 2, blue])
    torch.testing.assert_close(layer().detach(), want)


def test_attributes_are_whole_words():
    found = item_features(pd.DataFrame({"text": ["attribute_1 attribute_12", "attribute_12 attribute_3"]}))
    assert found.names == ["attribute_12"]
    np.testing.assert_array_equal(found.indptr, [0, 1, 2])


def test_no_shared_word_is_said():
    with pytest.raises(RecsysError, match="share no word"):
        item_features(pd.DataFrame({"text": ["a1", "b2", ""]}))
