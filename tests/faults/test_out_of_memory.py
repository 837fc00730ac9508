"""A model step for which memory is too small: the message names the settings to lower, with their values."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from assets.exhaustion import exhaustion_told
from assets.models import G2RecModelConfig, SASRecModelConfig
from recsys_dagster.errors import RecsysError

SCRIPT = """
import resource, sys
from recsys_dagster.cli import main
import torch
try:
    main(["materialize", "-d", "sample", "-s", "raw_items", "-s", "users"])
except SystemExit as ended:
    assert not ended.code
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
main(["materialize", "-d", "sample", "-s", "sasrec_model", "--config", sys.argv[1]])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited by Linux")
def test_a_training_beyond_the_memory_names_what_to_lower(store, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("ops: {sasrec_model: {config: {dimension: 65536, batch_size: 512, negatives: 0}}}\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(config)], capture_output=True, text=True, env={**os.environ}, timeout=240
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "sasrec_model of sample ran out of memory" in error
    assert "To mend: in the run config, under ops.sasrec_model.config, lower batch_size (now 512)" in error
    assert "dimension (now 65536)" in error
    assert "set negatives to a few thousand" in error
    assert "Traceback" not in done.stderr
    assert store.previous_directory("sasrec_model", "sample") is None
    assert not [path for path in (tmp_path / "home" / "assets" / ".staging").rglob("*") if path.is_file()]


class Context:
    partition_key = "shop"

    class op_def:
        name = "g2rec_model"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_every_kind_of_exhausted_memory_is_known(error):
    with (
        pytest.raises(RecsysError, match=r"g2rec_model of shop ran out of memory .*neighbours \(now 50\)"),
        exhaustion_told(Context, G2RecModelConfig(neighbours=50, negatives=1000)),
    ):
        raise error


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), exhaustion_told(Context, SASRecModelConfig()):
        raise RuntimeError("shapes do not fit")
