"""Every stage that is a map or a sum over users: the same table by one process, by two, and by a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from assets.larmi import clusterers_of
from assets.tables import conform
from benchmarks.openai_server import OpenAIServer
from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.sasrec import SASRec
from recsys_dagster.evaluation.ranges import UserData, evaluate_models, recommend_all
from recsys_dagster.g2rec.graph_parts import LogGroups, build_graph_here, build_graph_parts
from recsys_dagster.g2rec.sampling import CoengagementConfig
from recsys_dagster.larmi.clique_parts import build_clique_parts
from recsys_dagster.larmi.cliques import CliqueConfig
from recsys_dagster.larmi.cluster_parts import AskingWorkers, LocalWorkers, cluster_user_parts
from recsys_dagster.larmi.llm.clusterer import LlmClusterer
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig
from recsys_dagster.models import StoredModel
from recsys_dagster.parallel import HERE, IN_MEMORY
from recsys_dagster.training.artifact import save_model
from resources.llm import LlmResource
from resources.stored_table import PartedTable


def joined(output: Any, parts: list[Any]) -> pd.DataFrame:
    """The table as the IO manager stores it."""
    path = Path(output.folder.path) / "whole.parquet"
    PartedTable(output, parts).write(path)
    table = pd.read_parquet(path)
    output.remove()
    return table


def same(found: pd.DataFrame, parts: list[pd.DataFrame], table: str) -> None:
    """Equal to the last bit."""
    expected = conform(pd.concat(parts, ignore_index=True), table)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize(
    "settings",
    [{}, {"samples_per_user": 5}, {"half_life_days": 30.0, "weighting": "count"}],
    ids=["cliques", "draws", "decay"],
)
def test_graph(engine, shop, settings):
    config = CoengagementConfig(group_rows=900, **settings)
    groups = LogGroups(shop.log, shop.n_users, shop.n_items, config)
    assert len(groups.ranges()) > 6
    output = shop.parts("coengagement_graph")
    parts, figures = build_graph_parts(groups, 3, engine, output)
    assert len(parts) > 2
    table = joined(output, parts)
    same(table, [build_graph_here(groups, 3)], "coengagement_graph")
    assert figures.edges == len(table)


@pytest.mark.parametrize("settings", [{}, {"synthesis": "random"}, {"max_reads": 40}], ids=["exact", "random", "cut"])
def test_cliques(engine, shop, settings):
    config = CliqueConfig(block_users=64, **settings)
    output = shop.parts("user_cliques")
    parts, figures = build_clique_parts(shop.log, shop.n_users, shop.n_items, config, engine, output)
    assert len(parts) > 4
    wanted, expected = build_clique_parts(shop.log, shop.n_users, shop.n_items, config, HERE, IN_MEMORY)
    same(joined(output, parts), wanted, "user_cliques")
    assert (figures.certain, figures.recall) == (expected.certain, expected.recall)
    np.testing.assert_array_equal(figures.sizes, expected.sizes)


def test_interest_clusters(engine, shop, monkeypatch):
    monkeypatch.setattr(LocalWorkers, "block_users", 100)
    output = shop.parts("user_clusters")
    workers = LocalWorkers(LocalClustererConfig())
    parts, figures = cluster_user_parts(shop.log, shop.n_users, shop.data.items, workers, engine, output)
    assert len(parts) == 6
    wanted, alone = cluster_user_parts(shop.log, shop.n_users, shop.data.items, LocalClusterer(), HERE, IN_MEMORY)
    same(joined(output, parts), wanted, "user_clusters")
    assert figures.statistics == alone.statistics
    assert figures.told == pytest.approx(alone.told)
    pd.testing.assert_frame_equal(figures.examples, alone.examples)


def test_a_language_model_is_asked_once_whoever_asks(engine, shop, tmp_path):
    tables, asked = [], []
    for workers, who in ((2, engine), (1, HERE)):
        with OpenAIServer() as server:
            llm = LlmResource(
                backend="openai", base_url=server.url, model="m", api_key_env="", concurrency=8,
                cache=str(tmp_path / f"{workers}.sqlite"),
            )  # fmt: skip
            clusterers = clusterers_of(llm, LocalClustererConfig(), workers)
            output: Any = IN_MEMORY
            if isinstance(clusterers, AskingWorkers):
                clusterers, output = replace(clusterers, block_users=150), shop.parts("user_clusters")
            parts, figures = cluster_user_parts(
                shop.log, shop.n_users, shop.data.items, clusterers, who, output
            )  # fmt: skip
            asked.append((len(server.bodies), figures.told["llm_calls"] + figures.told["llm_cached"]))
            assert server.most_in_flight <= 8
        tables.append(parts if output is IN_MEMORY else joined(output, parts))
    same(tables[0], tables[1], "user_clusters")
    assert set(tables[0]["source"]) == {"openai"}
    assert asked[0][0] == asked[1][0]


def test_limits_over_all_calls_are_kept_by_one_process():
    for limit in ({"requests_per_minute": 9}, {"tokens_per_minute": 9}, {"backend": "openai_batch"}):
        llm = LlmResource(**{"backend": "openai", "api_key_env": "", **limit})
        assert isinstance(clusterers_of(llm, LocalClustererConfig(), 2), LlmClusterer), limit


@pytest.fixture(scope="session")
def model(shop) -> StoredModel:
    """A SASRec that nobody trained: its scores are as good as any."""
    config, shape = SASRecConfig(dim=16, n_layers=1), {"n_items": shop.n_items, "max_length": 50}
    directory = shop.folder / "sasrec"
    made = SASRec(config, **shape)
    save_model(
        directory, name="sasrec", config=config.model_dump(), shape=shape, state=made.learned_state(),
        history=pd.DataFrame({"epoch": [0]}),
    )  # fmt: skip
    return StoredModel.at(directory, "cpu")


def test_evaluation_and_recommendations(engine, shop, model):
    names = {"dataset": "sample", "model": "sasrec", "protocol": "leave_one_out", "seed": 0}
    found = []
    for who, output in ((engine, shop.parts("user_metrics")), (HERE, IN_MEMORY)):
        data = UserData.of(shop.log, shop.n_users, shop.n_items, 50, who)
        found.append(
            evaluate_models(
                [(model, names), (model, names | {"seed": 1})], data, shop.negatives, ks=[1, 10], batch_size=16,
                engine=who, output=output,
            )
        )  # fmt: skip
        if who is engine:
            users = joined(output, found[0][1])
    pd.testing.assert_frame_equal(found[0][0], found[1][0], check_exact=True)
    assert len(found[0][1]) == 10
    same(users, found[1][1], "user_metrics")
    output = shop.parts("recommendations")
    spread = recommend_all([("sasrec", model)], data, n=7, engine=engine, output=output)["sasrec"]
    alone = recommend_all([("sasrec", model)], data, n=7, engine=HERE, output=IN_MEMORY)["sasrec"]
    same(joined(output, spread.parts), alone.parts, "recommendations")
    np.testing.assert_array_equal(spread.shown, alone.shown)
