"""Where and how exactly a model is trained: the plain form of the Dagster `GpuResource`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Runtime(BaseModel):
    """Device, precision and seed of one training or scoring run."""

    device: str = Field("cpu", description="torch device: cpu, cuda, cuda:1, mps")
    devices: int = Field(1, ge=1, description="Processes that train together, each on a device of its own")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of matrix products (autocast)")
    compile: bool = Field(False, description="Compile the model with torch.compile; pays on a GPU with many epochs")
    seed: int = Field(0, description="Seed of weights, batches, dropout and noise")
    deterministic: bool = Field(True, description="Ask PyTorch for algorithms that give the same result twice")
