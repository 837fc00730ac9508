import subprocess
import sys

import numpy as np

from recsys_dagster.memory import peak_memory_mb


def test_the_peak_is_that_of_this_process_and_not_of_the_one_that_started_it():
    held = np.ones(40_000_000)  # 305 MiB, resident
    assert peak_memory_mb() > 305
    code = "from recsys_dagster.memory import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(child.stdout) < 200
    assert held.sum() == len(held)
