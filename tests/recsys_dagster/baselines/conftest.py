"""The dataset on which the models' quality is measured."""

import pytest


@pytest.fixture(scope="session")
def sample_data():
    """`SequenceData` of the dataset `sample`: 600 users, 400 items, the last item of each user to be found."""
    from recsys_dagster.data.prepare import prepare
    from recsys_dagster.data.registry import DatasetSpec
    from recsys_dagster.data.sample import generate_sample
    from recsys_dagster.training.data import SequenceData

    spec = DatasetSpec(name="sample", reader="sample")
    tables = prepare(generate_sample(), spec)
    return SequenceData.from_tables(
        tables.interactions, n_users=len(tables.users), n_items=len(tables.items), max_length=spec.max_length
    )
