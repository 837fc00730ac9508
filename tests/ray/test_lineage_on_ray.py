"""The whole lineage on Ray, two partitions at the same time, against the lineage in one process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))

from operated import GROUPS, World, write_log

from assets.tables import TABLES
from resources.storage import AssetStore

QUICK = """
ops:
  coengagement_graph: {config: {group_rows: 150}}
  user_cliques: {config: {block_users: 16}}
  evaluated_models: {config: {batch_size: 4}}
  sasrec_model: {config: {epochs: 4, learning_rate: 0.01}}
  larmi_model: {config: {epochs: 4, learning_rate: 0.01}}
  g2rec_model: {config: {epochs: 3, learning_rate: 0.01}}
"""
"""Little training, and parts so small that there are several."""

ON_RAY = """
resources:
  compute: {{config: {{engine: ray, address: "{address}"}}}}
"""

ENTRY = '[{0}]\nreader = "table"\nsource = "{0}.csv"\nk_core_users = 3\nk_core_items = 3\n'
COMPARED = sorted({*TABLES} - {"raw_interactions", "raw_items", "larmi_trials", "larmi_search_table"})
SPREAD = ["users", "user_clusters", "user_cliques", "coengagement_graph"]
"""The tables that workers make before there are models; what is not split takes longest, and `sample` below has it."""


def same_tables(first: World, second: World, dataset: str, names: Sequence[str]) -> None:
    """Equal to the last bit, whoever made them."""
    for name in names:
        one, other = (
            AssetStore(root=str(world.home / "assets")).previous_table(name, dataset) for world in (first, second)
        )
        assert one is not None, name
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=f"{name} of {dataset}")


def world_of(folder: Path, settings: str) -> World:
    folder.mkdir()
    world = World(folder, "".join(ENTRY.format(name) for name in ("first", "second")))
    for seed, name in enumerate(("first", "second")):
        write_log(folder / f"{name}.csv", GROUPS, seed=seed)
    (folder / "run.yaml").write_text(settings)
    return world


@pytest.fixture
def worlds(cluster: Any, tmp_path: Path) -> tuple[World, World]:
    """One that works alone, and one that works on the cluster."""
    return (
        world_of(tmp_path / "alone", QUICK),
        world_of(tmp_path / "spread", QUICK + ON_RAY.format(address=cluster.address)),
    )


def test_two_partitions_at_once_are_those_of_one_process(worlds: tuple[World, World]) -> None:
    alone, spread = worlds
    select = [argument for name in ("data", *SPREAD) for argument in ("--select", name)]
    alone.run("materialize", "-d", "first", "-d", "second", "--config", "run.yaml", *select)
    done = spread.run(
        "backfill", "--datasets", "first,second", "--parallel", "2", "--config", "run.yaml", "--json", *select
    )
    assert [result["success"] for result in json.loads(done.stdout)["results"]] == [True, True]
    for dataset in ("first", "second"):
        same_tables(alone, spread, dataset, SPREAD)
    assert [path for path in (spread.home / "assets" / ".parts").rglob("*") if path.is_file()] == []


@pytest.mark.skipif("RECSYS_RAY_SAMPLE" not in os.environ, reason="some minutes; RECSYS_RAY_SAMPLE=1 asks for it")
@pytest.mark.timeout(1_800)
def test_the_whole_lineage_of_sample_is_that_of_one_process(worlds: tuple[World, World]) -> None:
    for world in worlds:
        world.registry.write_text('[sample]\nreader = "sample"\n')
        world.run("materialize", "-d", "sample", "--config", "run.yaml")
    same_tables(*worlds, "sample", COMPARED)
    leaderboards = [(world.home / "assets" / "leaderboard" / "sample.json").read_text() for world in worlds]
    assert leaderboards[0] == leaderboards[1]
