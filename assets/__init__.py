"""What Dagster materializes, one file per stage."""

import warnings

import dagster as dg

# Partitioned checks and backfill policies are marked preview and beta in Dagster 1.13. They are needed (a check must
# load one partition, not all), constraints.txt holds the version, and tests run both: the warning is no news.
for _category in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", message=".*(partitions_def|backfill_policy).*", category=_category)
