"""A small G2Rec with two levels of prototypes, for the tests of the model."""

import pandas as pd
import torch

from recsys_dagster.g2rec.config import G2RecConfig
from recsys_dagster.g2rec.evidence import EvidenceTables
from recsys_dagster.g2rec.model import G2Rec
from recsys_dagster.g2rec.profiles import profile_arrays

SMALL = G2RecConfig(
    dimension=16, heads=2, layers=1, dropout=0.0, epochs=4, patience=4, batch_size=16, learning_rate=3e-3
)

GRAPH = pd.DataFrame({"source": [0, 0, 3, 5, 20], "target": [1, 3, 4, 21, 21], "weight": [2.0, 1.0, 4.0, 1.0, 3.0]})


def memberships(n_items=24):
    """Two levels: prototypes 0 and 1 softly by half, prototypes 10, 11, 12 by thirds."""
    rows = []
    for item in range(n_items):
        own = int(item >= n_items // 2)
        rows += [(item, 0, own, 0.75), (item, 0, 1 - own, 0.25), (item, 1, 10 + item % 3, 1.0)]
    return pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])


def build(data, **changes):
    torch.manual_seed(0)
    columns, weights, ends, ids = profile_arrays(memberships(), data.n_items)
    tables = EvidenceTables.of(GRAPH, data.train, None, 50)
    model = G2Rec(
        SMALL.model_copy(update=changes), n_items=data.n_items, max_length=data.max_length,
        prototypes=len(ids), levels=len(ends), width=columns.shape[1], **tables.shape,
    )  # fmt: skip
    model.fill((columns, weights, ends), tables)
    return model.eval()


def decoded(model, batch):
    """Tokens of whole histories float [batch, tokens, d], and all the decoder's states, the one before any included."""
    tokens = model._tokens(batch.items, model.vectors())
    return tokens, model.backbone(tokens)
