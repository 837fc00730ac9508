"""Leiden as a Pipes job: the real job with a stand-in for cuGraph, whose documented calls are answered by igraph."""

from __future__ import annotations

import numpy as np
import pytest
from cugraph_stand_in import write_stand_in
from test_assets_g2rec import GROUPS, SIZE, Home, planted_graph

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    return Home(tmp_path / "assets")


@pytest.fixture
def cugraph(tmp_path, monkeypatch):
    """A folder of modules that the job finds under the names of RAPIDS."""
    write_stand_in(tmp_path / "rapids")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "rapids"))


@pytest.mark.usefixtures("cugraph")
def test_the_job_clusters_the_stored_graph_and_the_asset_goes_on_from_it(home, capfd):
    graph = planted_graph(0, 0.02)
    lonely = graph[(graph["source"] != 7) & (graph["target"] != 7)]  # item 7 has no edge, and is in no row of the job's
    result = home.night(lonely, engine="cugraph", gammas=[1.0, 60.0])
    assert result.success
    assert "comms were closed" in capfd.readouterr().out
    streamed = [entry.user_message for entry in home.instance.all_logs(result.run_id)]
    assert any(text.startswith("cugraph: gamma 1, 4 clusters of 47 items, modularity 0.") for text in streamed)
    table, memberships = home.stored("cugraph_partitions"), home.stored("soft_memberships")
    first = table[table["level"] == 0]
    assert first["gamma"].tolist() == [1.0] * (GROUPS * SIZE - 1)
    assert 7 not in set(first["item_id"])
    planted = first["item_id"].to_numpy() // SIZE
    assert all(len(set(planted[first["cluster"].to_numpy() == c])) == 1 for c in range(GROUPS))
    # 60 is finer than the graph supports: the job halved it, and the asset says what it was found at
    gamma = table.loc[table["level"] == 1, "gamma"].iloc[0]
    assert 1 < gamma < 60
    assert memberships.attrs["gammas"] == [1.0, gamma]
    assert set(memberships["item_id"]) == set(range(GROUPS * SIZE))
    metadata = result.asset_materializations_for_node("interests")[0].metadata
    assert metadata["level_0_q_hard"].value == pytest.approx(q_hard(lonely), abs=1e-6)
    # a warm night needs no job
    (home.store.path("cugraph_partitions", "sample")).unlink()
    assert home.night(lonely, engine="cugraph", gammas=[1.0, 60.0]).success
    assert not home.store.path("cugraph_partitions", "sample").exists()


def q_hard(graph):
    """Modularity of our own engine's clusters."""
    config = SoftConfig(gammas=[1.0], rho=3)
    return soft_memberships(graph, GROUPS * SIZE, config)[1]["levels"][0]["q_hard"]


@pytest.mark.parametrize(
    ("python", "message"),
    [("", "engine is cugraph, but this Python has no cugraph"), ("/no/python", "'/no/python', no such program")],
)
def test_without_cugraph_the_error_says_what_is_missing_and_what_to_do(home, python, message):
    resources = {"cugraph": {"config": {"python": python}}}
    failed = home.night(planted_graph(0, 0.02), engine="cugraph", resources=resources)
    assert not failed.success
    error = failed.failure_data_for_node("interests").error
    text = (error.cause or error).message
    assert message in text
    assert "docs/ray.md" in text
    assert "engine: compiled" in text


def test_a_number_of_prototypes_is_no_setting_of_the_job():
    config = SoftConfig(engine="cugraph", n_prototypes=[4])
    with pytest.raises(RecsysError, match="set gammas and not n_prototypes"):
        soft_memberships(planted_graph(0, 0.02), GROUPS * SIZE, config, elsewhere=lambda: np.empty(0))
