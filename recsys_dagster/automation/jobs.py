"""The jobs."""

import dagster as dg

from assets.comparisons import GROUP
from assets.search import GROUP as SEARCH
from assets.search import larmi_trials

DATA = ("raw_interactions", "raw_items", "interactions", "users", "items", "negatives")
RECLUSTER = ("coengagement_graph", "soft_memberships", "prototypes", "interest_tokens")
TRAIN = (
    "user_clusters",
    "user_cliques",
    "representative_users",
    "representative_clusters",
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
REFRESH = (*DATA, "item_embeddings", *RECLUSTER)

COMPARISONS = dg.AssetSelection.groups(GROUP)
LINEAGE = dg.AssetSelection.all() - COMPARISONS - dg.AssetSelection.groups(SEARCH)
EVALUATED = ("metrics", "user_metrics", "leaderboard", "interest_report")

full_lineage = dg.define_asset_job(
    "full_lineage",
    selection=LINEAGE,
    description="Everything for one dataset: raw log to trained models, metrics, leaderboard and recommendations. The "
    "group `comparisons` is left to the job `compare`.",
)
compare = dg.define_asset_job(
    "compare",
    selection=COMPARISONS | dg.AssetSelection.assets(*EVALUATED),
    description="The baselines of the papers for one dataset that has been through `full_lineage`, then metrics, "
    "leaderboard and report with a row for each.",
)
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets(larmi_trials),
    description="`full_lineage` and `compare` in one. The command line takes single assets from it (`--select`).",
)
refresh = dg.define_asset_job(
    "refresh",
    selection=dg.AssetSelection.assets(*REFRESH),
    description="A dataset's source read again, and its graph, memberships, prototypes and tokens renewed from it. "
    "Models are not trained again. Nights and arrivals run it.",
)
recluster = dg.define_asset_job(
    "recluster",
    selection=dg.AssetSelection.assets(*RECLUSTER),
    description="Co-engagement graph, soft memberships (warm start from the stored ones, ids kept), prototypes and "
    "interest tokens for one dataset. Models are not trained again.",
)
train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.assets(*TRAIN),
    description="All models of one dataset on its stored data and memberships (LARMI's clusters and cliques are made "
    "anew, they hold the ids of the data), then metrics, leaderboard, recommendations and report.",
)

larmi_search_job = dg.define_asset_job(
    "larmi_search",
    selection=dg.AssetSelection.assets(larmi_trials),
    description="LARMI over the paper's grid of interests, learning rate and weight decay, a run a dataset and trial. "
    "A backfill of the missing partitions goes on where another ended; then materialize `larmi_search_table`.",
)

JOBS = (full_lineage, refresh, recluster, train, compare, everything, larmi_search_job)
