"""How much memory a run has taken."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory_mb(device: str = "cpu") -> float:
    """Peak memory in MiB: allocated on a CUDA device since its statistics were reset, or resident in this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` begins with what the process that started this one held
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
