"""The device that models train on, and what it was asked to do."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field, field_validator

from recsys_dagster.memory import peak_memory_mb


class GpuResource(dg.ConfigurableResource):
    """Device, precision and seed of every training step.

    Assets that use it share the pool ``gpu``, so that two trainings never meet on one card. Nothing here imports torch
    until a step runs.
    """

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:<index> or mps. auto takes cuda, then cpu.")
    devices: int = Field(
        default=1,
        ge=1,
        description="Devices of this machine that train one model together, a process each: the first so many CUDA "
        "devices, or processes on the CPU. Batches stay the same, each device takes a part of each.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16 computes in bfloat16 where the device can."
    )
    compile: bool = Field(
        default=False, description="Compile the models with torch.compile: slow to start, faster after."
    )
    seed: int = Field(default=0, ge=0, description="Seed of weights, batches and dropout.")
    deterministic: bool = Field(
        default=True, description="Same seed, same device, same result; a little slower on CUDA."
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        kind, _, index = value.partition(":")
        if value in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and index.isdigit()):
            return value
        raise ValueError(f"gpu.device is {value!r}; expected auto, cpu, cuda, cuda:<index> or mps")

    def resolve(self) -> str:
        """The device to use on this machine.

        Raises:
            ValueError: the configured device is not there.
        """
        if self.device == "cpu":
            return "cpu"
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise ValueError("gpu.device is 'mps', but torch sees no such device here; set it to auto or cpu")
        if self.device.startswith("cuda"):
            index, seen = int(self.device.partition(":")[2] or 0), torch.cuda.device_count()
            if index >= seen:
                raise ValueError(
                    f"gpu.device is {self.device!r}, but torch sees {seen} CUDA devices here; set it to auto or cpu"
                )
        return self.device

    def runtime(self) -> dict[str, Any]:
        """The settings with the device resolved, and its peak memory counter set back.

        Raises:
            ValueError: the configured device, or so many of them, is not there, or cannot train with others.
        """
        device = self.resolve()
        if self.devices > 1:
            self._require_devices(device)
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        return {
            "device": device,
            "devices": self.devices,
            "precision": self.precision,
            "compile": self.compile,
            "seed": self.seed,
            "deterministic": self.deterministic,
        }

    def _require_devices(self, device: str) -> None:
        if device not in ("cpu", "cuda"):
            raise ValueError(f"gpu.devices is {self.devices} and gpu.device {device!r}; set gpu.device to cuda or cpu")
        if self.compile:
            raise ValueError(f"gpu.devices is {self.devices} and gpu.compile true; set one of them back")
        import torch

        if device == "cuda" and self.devices > torch.cuda.device_count():
            raise ValueError(
                f"gpu.devices is {self.devices}, but torch sees {torch.cuda.device_count()} CUDA devices here"
            )

    def usage(self, device: str) -> dict[str, Any]:
        """Metadata after the work: device, how many, precision, peak memory in MiB (on the CPU, of the process)."""
        return {
            "device": device,
            "devices": self.devices,
            "precision": self.precision,
            "peak_memory_mb": round(peak_memory_mb(device), 1),
        }
