"""The asset of prototypes over several nights: what it keeps, and what it refuses to publish."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.g2rec import coengagement_graph, interests, last_night
from assets.partitions import datasets
from assets.tables import conform
from recsys_dagster.definitions import default_resources
from resources.storage import AssetStore

GROUPS, SIZE = 4, 12
INPUTS = ("interactions", "items", "coengagement_graph")


def planted_graph(seed: int, between: float) -> pd.DataFrame:
    """Four groups of items, with ties inside and a given rate of ties between them."""
    rng = np.random.default_rng(seed)
    source, target = np.triu_indices(GROUPS * SIZE, 1)
    keep = rng.random(len(source)) < np.where(source // SIZE == target // SIZE, 0.7, between)
    graph = pd.DataFrame({"source": source[keep], "target": target[keep], "weight": 1.0})
    return conform(graph.assign(weight=graph["weight"].astype("float32")), "coengagement_graph")


class Home:
    """A store with the inputs of `interests`, and the materializations of one instance."""

    def __init__(self, folder: Path) -> None:
        self.store = AssetStore(root=str(folder))
        self.instance = dg.DagsterInstance.ephemeral()
        n = GROUPS * SIZE
        rng = np.random.default_rng(0)
        rows = [
            (user, item, position, position, max(position - 2, 0))
            for user in range(40)
            for position, item in enumerate(user % GROUPS * SIZE + rng.permutation(SIZE)[:5])
        ]
        log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position", "split"])
        items = pd.DataFrame({"item_id": range(n), "source_key": [f"i{k}" for k in range(n)]})
        items = items.assign(title="", categories="", text="", train_popularity=1)
        for name, table in (("interactions", log), ("items", items)):
            self.write(name, conform(table, name))

    def write(self, name: str, table: pd.DataFrame) -> None:
        path = Path(str(self.store.path(name, "sample")))
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)

    def night(
        self, graph: pd.DataFrame, *, resources: dict[str, object] | None = None, **config: object
    ) -> dg.ExecuteInProcessResult:
        self.write("coengagement_graph", graph)
        ops = {"interests": {"config": {"gammas": [1.0], "rho": 3, **config}}}
        return self.run(interests, ops, resources)

    def run(
        self,
        asset: dg.AssetsDefinition,
        ops: dict[str, object] | None = None,
        resources: dict[str, object] | None = None,
    ) -> dg.ExecuteInProcessResult:
        inputs = [dg.AssetSpec(key, partitions_def=datasets) for key in INPUTS if dg.AssetKey(key) not in asset.keys]
        return dg.materialize(
            [*inputs, asset],
            selection=[*asset.keys],
            partition_key="sample",
            instance=self.instance,
            resources=default_resources(self.store),
            run_config={"ops": ops or {}, "resources": resources or {}},
            raise_on_error=False,
        )

    def stored(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(str(self.store.path(name, "sample")))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    return Home(tmp_path / "assets")


def test_a_collapsed_clustering_is_not_published(home):
    assert home.night(planted_graph(0, 0.02)).success
    before, prototypes = home.stored("soft_memberships"), home.stored("prototypes")
    failed = home.night(planted_graph(1, 0.7))  # all groups are one now
    assert not failed.success
    (verdict,) = failed.get_asset_check_evaluations()
    assert not verdict.passed
    assert "Not published" in verdict.description
    assert "soft modularity is" in verdict.description
    assert "warm_start: false" in verdict.description
    assert failed.get_asset_materialization_events() == []
    pd.testing.assert_frame_equal(home.stored("soft_memberships"), before)
    pd.testing.assert_frame_equal(home.stored("prototypes"), prototypes)
    # A person may publish it all the same. No id is given twice.
    assert home.night(planted_graph(1, 0.7), warm_start=False).success
    assert home.stored("soft_memberships").attrs["next_id"] >= before.attrs["next_id"]
    known = set(before["prototype_id"])
    after = home.stored("prototypes")
    assert after.loc[~after["prototype_id"].isin(known), "prototype_id"].ge(before.attrs["next_id"]).all()
    assert set(after.loc[after["prototype_id"].isin(known), "previous_id"]) <= known


def test_nights_go_on_from_each_other(home):
    first = home.night(planted_graph(0, 0.02))
    chosen = first.asset_materializations_for_node("interests")[0].metadata["level_0_temperature"].value
    before = home.stored("soft_memberships")
    second = home.night(planted_graph(0, 0.02))
    assert second.success
    (verdict,) = second.get_asset_check_evaluations()
    assert verdict.passed
    facts = second.asset_materializations_for_node("interests")[0].metadata
    assert facts["level_0_temperature"].value == chosen
    assert "temperatures_tried" not in facts
    assert facts["level_0_births"].value == facts["level_0_deaths"].value == 0
    assert facts["nights"].value.startswith("![")
    moved = before.merge(home.stored("soft_memberships"), on=["item_id", "prototype_id"], how="outer").fillna(0)
    assert (moved["probability_x"] - moved["probability_y"]).abs().max() < 0.02
    # New items, and old ones under other numbers, find their prototypes by their keys.
    items = home.stored("items")
    keys = [*items["source_key"].iloc[::-1], "new"]
    more = pd.concat([items, items.iloc[:1]], ignore_index=True)
    home.write("items", conform(more.assign(item_id=range(len(keys)), source_key=keys), "items"))
    last = len(items) - 1
    graph = planted_graph(0, 0.02)
    turned = graph.assign(source=last - graph["target"], target=last - graph["source"])
    ties = pd.DataFrame({"source": [0, 1, 2], "target": len(items), "weight": 1.0}).astype(graph.dtypes.to_dict())
    renumbered = pd.concat([turned, ties]).sort_values(["source", "target"], ignore_index=True)
    assert home.night(conform(renumbered, "coengagement_graph")).success
    after = home.stored("soft_memberships")
    strongest = after.sort_values("probability").drop_duplicates("item_id", keep="last").set_index("item_id")
    expected = before.sort_values("probability").drop_duplicates("item_id", keep="last").set_index("item_id")
    assert (
        strongest.loc[range(last + 1), "prototype_id"].to_numpy()[::-1] == expected["prototype_id"].sort_index()
    ).all()
    assert strongest.loc[last + 1, "prototype_id"] == strongest.loc[0, "prototype_id"]


def test_graph_is_read_in_pieces_and_decays_if_told_to(home):
    counted = {"coengagement_graph": {"config": {"weighting": "count"}}}
    whole = home.run(coengagement_graph, counted)
    assert whole.success
    exact = home.stored("coengagement_graph")
    counted["coengagement_graph"]["config"]["group_rows"] = 7
    assert home.run(coengagement_graph, counted).success
    pd.testing.assert_frame_equal(home.stored("coengagement_graph"), exact)
    config = {"coengagement_graph": {"config": {"weighting": "count", "half_life_days": 1e-4}}}
    assert home.run(coengagement_graph, config).success
    decayed = home.stored("coengagement_graph")
    assert (decayed[["source", "target"]] == exact[["source", "target"]]).all(axis=None)
    assert (decayed["weight"] < exact["weight"]).mean() > 0.9
    # Positions are the seconds of this log: the newest train interaction is at 2, and 1e-4 days are 8.64 s.
    oldest = 2 ** (-((2 - 0) + (2 - 1)) / 2 / 8.64)
    assert decayed["weight"].min() == pytest.approx(oldest, rel=1e-5)
    home.write("interactions", home.stored("interactions").assign(timestamp=0))
    failed = home.run(coengagement_graph, config)
    assert not failed.success
    assert "no timestamps" in str(failed.get_step_failure_events()[0].step_failure_data.error)


def test_last_night_speaks_of_todays_items(tmp_path):
    store = AssetStore(root=str(tmp_path))
    items = pd.DataFrame({"item_id": [0, 1, 2], "source_key": ["c", "new", "a"]})
    assert last_night(store, "sample", items) is None
    table = pd.DataFrame({"item_id": [0, 1, 2], "level": 0, "prototype_id": [4, 4, 6], "probability": 1.0})
    path = store.path("soft_memberships", "sample")
    path.parent.mkdir(parents=True)
    table.to_parquet(path)
    assert last_night(store, "sample", items) is None  # a table from before nights left anything
    left = {"resolutions": [1.0], "gammas": [1.0], "temperatures": [0.02], "levels": [{"q_soft": 0.4}]}
    table.attrs = {"item_keys": ["a", "b", "c"], "next_id": 9, **left}
    table.to_parquet(path)
    last = last_night(store, "sample", items)
    assert last is not None
    assert last.next_id == 9
    assert last.temperatures == [0.02]
    assert last.memberships[["item_id", "prototype_id"]].to_numpy().tolist() == [[0, 6], [2, 4]]
    gone = items.assign(source_key=["p", "q", "r"])
    assert last_night(store, "sample", gone) is None
