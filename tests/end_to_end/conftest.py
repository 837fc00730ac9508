"""A state directory in which the whole lineage has been through, made once for all end-to-end tests."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from services import free_ports

from resources.storage import AssetStore

QUICK = """
ops:
  sasrec_model: {config: {epochs: 8, learning_rate: 0.005}}
  larmi_model: {config: {epochs: 8, learning_rate: 0.005}}
  g2rec_model: {config: {epochs: 3}}
"""
"""Enough training to beat popularity by far, not to win a prize."""


class Home:
    """A state directory in which both generated datasets have been materialized."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = {"RECSYS_HOME": str(folder), "DAGSTER_HOME": str(folder / "dagster")}
        self.env = {**os.environ, **places, "RECSYS_REPORTS_URL": f"http://127.0.0.1:{free_ports(1)[0]}"}
        self.store = AssetStore(root=str(folder / "assets"))

    def run(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "recsys_dagster.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def table(self, asset: str, dataset: str) -> pd.DataFrame:
        return self.store.previous_table(asset, dataset)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    config = home.folder / "quick.yaml"
    config.write_text(QUICK)
    home.run("materialize", "--dataset", "sample", "--dataset", "sample_622", "--config", str(config))
    return home
