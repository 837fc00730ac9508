"""Jobs and the nightly schedule."""

from collections.abc import Iterator

import dagster as dg

from assets.comparisons import GROUP
from assets.partitions import datasets
from assets.search import GROUP as SEARCH
from assets.search import larmi_trials, trials

RECLUSTER = ("coengagement_graph", "soft_memberships", "prototypes", "interest_tokens")
TRAIN = (
    "popularity_model",
    "sasrec_model",
    "item_embeddings",
    "interest_tokens",
    "larmi_model",
    "g2rec_model",
    "metrics",
    "user_metrics",
    "leaderboard",
    "recommendations",
    "interest_report",
)
NEEDED_AT_NIGHT = ("interactions", "item_embeddings")
"""What a dataset must have before the nightly job can run on it: its data, and the embeddings of its last training."""

COMPARISONS = dg.AssetSelection.groups(GROUP)
SEARCHED = dg.AssetSelection.groups(SEARCH)
EVALUATED = ("metrics", "user_metrics", "leaderboard", "interest_report")

full_lineage = dg.define_asset_job(
    "full_lineage",
    selection=dg.AssetSelection.all() - COMPARISONS - SEARCHED,
    partitions_def=datasets,
    description="Everything for one dataset: raw log to trained models, metrics, leaderboard and recommendations. The "
    "group `comparisons` is left to the job `compare`.",
)
compare = dg.define_asset_job(
    "compare",
    selection=COMPARISONS | dg.AssetSelection.assets(*EVALUATED),
    partitions_def=datasets,
    description="The baselines of the papers for one dataset that has been through `full_lineage`, then metrics, "
    "leaderboard and report with a row for each.",
)
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets(larmi_trials),
    partitions_def=datasets,
    description="`full_lineage` and `compare` in one. The command line takes single assets from it (`--select`).",
)
recluster = dg.define_asset_job(
    "recluster",
    selection=dg.AssetSelection.assets(*RECLUSTER),
    partitions_def=datasets,
    description="Co-engagement graph, soft memberships (warm start from the stored ones, ids kept), prototypes and "
    "interest tokens for one dataset. Models are not trained again.",
)
train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.assets(*TRAIN),
    partitions_def=datasets,
    description="All models of one dataset on its stored clusters and memberships, then metrics, leaderboard, "
    "recommendations and report.",
)


@dg.schedule(
    name="nightly_recluster",
    job=recluster,
    cron_schedule="0 2 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="At 02:00: graph, memberships, prototypes and tokens again, one run for each dataset that has been "
    "materialized before (its `interactions` and `item_embeddings` exist). Datasets never materialized are left alone.",
)
def nightly_recluster(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for one run of `recluster` for each dataset that is ready for it."""
    keys = [dg.AssetKey(name) for name in NEEDED_AT_NIGHT]
    ready = set(datasets.get_partition_keys())
    for key in keys:
        ready &= set(context.instance.get_materialized_partitions(key))
    if not ready:
        yield dg.SkipReason("No dataset has been materialized yet: run full_lineage for one first.")
    night = f"{context.scheduled_execution_time:%Y-%m-%d}"
    for partition in datasets.get_partition_keys():
        if partition in ready:
            yield dg.RunRequest(
                run_key=f"{night}-{partition}", partition_key=partition, tags={"recsys/dataset": partition}
            )


larmi_search_job = dg.define_asset_job(
    "larmi_search",
    selection=dg.AssetSelection.assets(larmi_trials),
    partitions_def=trials,
    description="LARMI over the paper's grid of interests, learning rate and weight decay, a run a dataset and trial. "
    "A backfill of the missing partitions goes on where another ended; then materialize `larmi_search_table`.",
)

JOBS = (full_lineage, recluster, train, compare, everything, larmi_search_job)
SCHEDULES = (nightly_recluster,)
