"""A real Ray cluster of two nodes on this machine, made once, and a small log to work on."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# Both before Ray is imported: the nodes listen on the loopback address only, and nothing is reported to anybody.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from assets.tables import conform
from recsys_dagster.data.sample import generate
from resources.stored_parts import StoredParts
from resources.stored_table import StoredTable

STORE_BYTES = 80 * 2**20
"""Of each node's object store: little, so that larger things spill to disk."""
