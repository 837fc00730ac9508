"""One partition per dataset: the keys of ``datasets.toml``, shared by every asset."""

import dagster as dg

from recsys_dagster.data.registry import dataset_names

datasets = dg.StaticPartitionsDefinition(dataset_names())
"""The partitions of every asset, check, job and schedule."""
