"""Group `larmi`: interests of users by a language model, synthesized users, and the few that represent all."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.common import COMMON, Stopwatch, materialized, picture, train_histories
from assets.spread import in_pieces, spread
from assets.tables import conform, definition_metadata
from recsys_dagster.larmi.cliques import CliqueConfig
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.local_clusterer import LocalClustererConfig
from recsys_dagster.larmi.max_cover.config import MaxCoverConfig
from resources.compute import ComputeResource
from resources.llm import LlmResource
from resources.storage import AssetStore
from resources.stored_table import StoredTable

if TYPE_CHECKING:
    from recsys_dagster.larmi.cluster_parts import AskingWorkers, ClusterFigures, LocalWorkers
    from recsys_dagster.larmi.clusters import Clusterer
    from recsys_dagster.larmi.max_cover import CoverInstance, Selection
    from recsys_dagster.training.data import SequenceData

KINDS = {"pandas", "parquet"}

MIND = "mind_model"
"""The asset whose interests stand beside LARMI's where it has been materialized."""


class UserClustersConfig(LocalClustererConfig, dg.Config):
    """Settings of the local clusterer, also of the answers that it gives in place of a failed one."""


class CliquesConfig(CliqueConfig, dg.Config):
    """How users are synthesized."""


class RepresentativesConfig(MaxCoverConfig, dg.Config):
    """The budget and the solver."""


def clusterer_of(llm: LlmSettings, cache: Path, config: LocalClustererConfig) -> "Clusterer":
    """The clusterer that the settings ask for, with its answers kept in `cache`."""
    from recsys_dagster.larmi.local_clusterer import LocalClusterer

    if llm.backend == "local":
        return LocalClusterer(config)
    from recsys_dagster.larmi.llm.batch import OpenAIBatchClusterer
    from recsys_dagster.larmi.llm.openai import OpenAIClusterer

    kind = OpenAIBatchClusterer if llm.backend == "openai_batch" else OpenAIClusterer
    return kind(llm, cache, LocalClusterer(config))


def clusterers_of(
    llm: LlmResource, config: LocalClustererConfig, workers: int
) -> "Clusterer | LocalWorkers | AskingWorkers":
    """The same for several workers, who share the calls in flight.

    What has to be kept over all calls together (rates, a spending cap, batches) is kept by one process.
    """
    from recsys_dagster.larmi.cluster_parts import AskingWorkers, LocalWorkers

    settings = LlmSettings(**llm.model_dump(include=set(LlmSettings.model_fields)))
    if settings.backend == "local":
        return LocalWorkers(LocalClustererConfig(**config.model_dump()))
    limited = settings.requests_per_minute or settings.tokens_per_minute or settings.spending_cap
    if workers == 1 or limited or settings.backend == "openai_batch":
        return clusterer_of(settings, llm.cache_path(), config)
    own = settings.model_copy(update={"concurrency": max(settings.concurrency // workers, 1)})
    return AskingWorkers(partial(clusterer_of, own, llm.cache_path(), LocalClustererConfig(**config.model_dump())))


def _cluster_metadata(figures: "ClusterFigures", items: pd.DataFrame) -> dict[str, Any]:
    """Counts, pictures of how many interests users have and how large they are, and ten users to read."""
    from recsys_dagster.evaluation.plots import histogram
    from recsys_dagster.larmi.examples import example_table

    interests, sizes = np.arange(len(figures.interests)), np.arange(len(figures.sizes))
    return {
        **figures.statistics.as_dict(),
        **figures.told,
        "interests_of_users": picture(
            histogram, interests, "Interests of a user", "interests", counts=figures.interests
        ),
        "cluster_sizes": picture(histogram, sizes, "Items of an interest", "items", log=True, counts=figures.sizes),
        "examples": dg.MetadataValue.md(example_table(figures.examples, items)),
    }


@dg.asset(
    **COMMON,
    group_name="larmi",
    kinds={"llm", *KINDS},
    code_version="2",
    pool="llm",
    metadata=definition_metadata("user_clusters"),
    ins=in_pieces("interactions", "users"),
)
def user_clusters(
    context: dg.AssetExecutionContext,
    config: UserClustersConfig,
    store: AssetStore,
    compute: ComputeResource,
    llm: LlmResource,
    interactions: StoredTable,
    users: StoredTable,
    items: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """Interests of every user by what the items mean (LARMI, Eq. 1): `C_u = LLM(prompt, titles of u's train items)`.

    An item may stand in several interests. Answers name item numbers under a JSON schema, are validated and repaired,
    and the local clusterer stands in for one that stays invalid (`source` tells which).
    """
    from recsys_dagster.larmi.cluster_parts import cluster_user_parts

    watch = Stopwatch()
    with spread(compute, store, "user_clusters", context.partition_key) as work:
        clusterers = clusterers_of(llm, config, work.engine.workers)
        parts, figures = cluster_user_parts(interactions, len(users), items, clusterers, work.engine, work.output)
    metadata = {**llm.describe(), **_cluster_metadata(figures, items)}
    return materialized(work.joined(parts), metadata, watch, config)


@dg.asset(
    **COMMON,
    group_name="larmi",
    kinds=KINDS,
    code_version="1",
    metadata=definition_metadata("user_cliques"),
    ins=in_pieces("interactions", "users", "items"),
)
def user_cliques(
    context: dg.AssetExecutionContext,
    config: CliquesConfig,
    store: AssetStore,
    compute: ComputeResource,
    interactions: StoredTable,
    users: StoredTable,
    items: StoredTable,
) -> dg.MaterializeResult[Any]:
    """Synthesized users (LARMI, Eq. 5): `I_clique(u) = union of I_v over v in N(u)`.

    N(u) is u and its nearest users by overlap of train items (ties: Jaccard, then id).
    """
    from recsys_dagster.evaluation.plots import histogram
    from recsys_dagster.larmi.clique_parts import build_clique_parts

    watch = Stopwatch()
    n_users, n_items = len(users), len(items)
    with spread(compute, store, "user_cliques", context.partition_key) as work:
        plainly = CliqueConfig(**config.model_dump())  # workers need not import Dagster for it
        parts, figures = build_clique_parts(interactions, n_users, n_items, plainly, work.engine, work.output)
    cliques = max(int(figures.sizes.sum()), 1)
    sizes, members = np.arange(len(figures.sizes)), np.arange(len(figures.members))
    metadata = {
        "cliques": int(figures.sizes.sum()),
        "items_per_clique": float(sizes @ figures.sizes / cliques),
        "members_per_clique": float(members @ figures.members / cliques),
        "neighbours_certain": figures.certain / cliques,
        **figures.recall,
        "clique_sizes": picture(histogram, sizes, "Items of a synthesized user", "items", counts=figures.sizes),
    }
    return materialized(work.joined(parts), metadata, watch, config)


def _cover_pictures(instance: "CoverInstance", config: MaxCoverConfig, selection: "Selection") -> dict[str, Any]:
    """Coverage by budget for every solver, overlap of the chosen cliques, and the value that each adds."""
    from recsys_dagster.evaluation.plots import cover_curves, ranked, square
    from recsys_dagster.larmi.max_cover.curve import coverage_curves, elbow, overlaps

    curves = coverage_curves(instance, config, selection)
    bend = elbow(*curves["greedy (plain)"])
    shared = overlaps(instance, selection)
    pairs = shared[np.triu_indices(len(shared), 1)]
    return {
        "elbow_budget": bend,
        "overlap_mean": float(pairs.mean()) if len(pairs) else None,
        "overlap_largest": float(pairs.max()) if len(pairs) else None,
        "coverage_by_budget": picture(cover_curves, curves, budget=instance.budget, elbow=bend),
        "overlaps": picture(square, shared, "Items shared by the chosen cliques", "Jaccard index"),
        "marginal_values": picture(ranked, selection.marginal, "What each chosen clique adds", "value"),
    }


@dg.asset(
    **COMMON, group_name="larmi", kinds=KINDS, code_version="2", metadata=definition_metadata("representative_users")
)
def representative_users(
    config: RepresentativesConfig,
    user_cliques: pd.DataFrame,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """The selection B of synthesized users (LARMI, Eq. 6-8): `max sum_j w_j * covered_j` with at most Z chosen.

    `w_j = 1 + (users with item j) / (all interactions)` (Eq. 7), or a business weight. Solved by CardNN (GraphSAGE
    scores, exact dual of the cardinality constraint, Gumbel noise, homotopy) or lazily evaluated greedy, both finished
    by a swap local search, or exactly (HiGHS) where the instance is small.
    """
    from recsys_dagster.larmi.max_cover import build_instance, selection_table, solve
    from recsys_dagster.larmi.max_cover.weights import read_item_values

    watch = Stopwatch()
    values, without = None, 0
    if config.value_file is not None:
        values, without = read_item_values(Path(config.value_file), config.value_column, items["source_key"])
    instance = build_instance(user_cliques, train_histories(interactions, users, items), config, values)
    selection = solve(instance, config)
    table = selection_table(selection)
    metadata = {
        "selected": len(table),
        "budget": instance.budget,
        "forced": len(instance.forced),
        "forbidden": len(instance.forbidden),
        "covered_value": float(table["covered_value"].iloc[-1]) if len(table) else 0.0,
        "covered_share": selection.share,
        "solver": config.solver,
        "cut_by_clock": selection.cut,
        "optimal": selection.optimal,
        "bound": selection.bound,
        "items_without_value": without,
        **_cover_pictures(instance, config, selection),
    }
    return materialized(conform(table, "representative_users"), metadata, watch, config)


@dg.asset(
    **COMMON,
    group_name="larmi",
    kinds={"llm", *KINDS},
    code_version="2",
    pool="llm",
    metadata=definition_metadata("representative_clusters"),
)
def representative_clusters(
    config: UserClustersConfig,
    llm: LlmResource,
    representative_users: pd.DataFrame,
    user_cliques: pd.DataFrame,
    items: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """Interests of the selected synthesized users (LARMI, Eq. 9): Eq. 1 on the items of each clique in B."""
    from recsys_dagster.larmi.cliques import clique_users
    from recsys_dagster.larmi.cluster_parts import ClusterFigures
    from recsys_dagster.larmi.clusters import Catalogue, ClusterStatistics, iter_user_clusters

    watch = Stopwatch()
    chosen = clique_users(user_cliques, representative_users["clique_id"].to_numpy())
    clusterer, statistics = clusterer_of(llm, llm.cache_path(), config), ClusterStatistics()
    blocks = iter_user_clusters(chosen, Catalogue.from_items(items), clusterer, statistics, "synthesized users")
    table = pd.concat(list(blocks), ignore_index=True)
    figures = ClusterFigures.of(table, statistics, clusterer.statistics(), table["user_id"].unique())
    metadata = {**llm.describe(), **_cluster_metadata(figures, items)}
    return materialized(conform(table, "representative_clusters"), metadata, watch, config)


def interest_metadata(
    directory: Path, data: "SequenceData", user_clusters: pd.DataFrame, mind: Path | None
) -> dict[str, Any]:
    """Figures 6 and 7 of a trained LARMI: coarseness against attention, and a user's interests beside MIND's.

    Args:
        directory: of the model.
        data: the splits.
        user_clusters: Eq. 1, which the model was trained on.
        mind: directory of a MIND trained on the same interactions, if there is one.
    """
    from recsys_dagster.evaluation.plots import heatmaps, scatter
    from recsys_dagster.larmi.explain import attention_facts, cluster_attention, example_user, interest_item_cosines
    from recsys_dagster.models import load_model

    found: dict[str, Any] = {}
    model: Any = load_model(directory)
    if model.config.semantic:
        table = cluster_attention(model, data.train)
        found |= attention_facts(table)
        if len(table):
            found["coarseness_and_attention"] = picture(
                scatter, table["coarseness"], table["concentration"], "Semantic clusters of several items",
                "coarseness (mean cosine distance)", "concentration of attention",
            )  # fmt: skip
    user = example_user(user_clusters, data.train, data.max_length)
    if user is not None:
        panels = {f"LARMI, user {user}": interest_item_cosines(model, model.item_vectors(), data.train, user)}
        if mind is not None:
            other: Any = load_model(mind)
            panels["MIND"] = interest_item_cosines(other, other.items.weight, data.train, user)
        found["interests_and_items"] = picture(heatmaps, panels, "cosine", "item of the history", "interest")
    return found
