"""What the processes that train one model together have in common: their parts of a batch, sums, ranked users.

Every process holds the whole model and takes a part of each batch. A loss gives its *share*: shares add up to the loss
of the whole batch, so summed gradients are those of one device. Where one process trains alone nothing here does
anything. `recsys_dagster.training.launch` starts the processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from recsys_dagster.training.batching import PairBatch, SequenceBatch

Value = TypeVar("Value")
Parts = TypeVar("Parts", range, torch.Tensor)

_joined_on: torch.device | None = None
"""Where this process keeps what it sends to the others; None while it trains alone."""


def join(rank: int, size: int, device: str, rendezvous: str) -> None:
    """Become one of `size` processes that train together.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        device: torch device of this process; CUDA devices talk through nccl, others through gloo.
        rendezvous: URL at which the processes find each other (`torch.distributed.init_process_group`).
    """
    global _joined_on
    kind = torch.device(device)
    if kind.type == "cuda":
        torch.cuda.set_device(kind)
    dist.init_process_group(
        "nccl" if kind.type == "cuda" else "gloo", init_method=rendezvous, rank=rank, world_size=size
    )
    _joined_on = kind


def leave() -> None:
    """Train alone again."""
    global _joined_on
    _joined_on = None
    dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 alone. Process 0 writes what is written."""
    return 0 if _joined_on is None else dist.get_rank()


def size() -> int:
    """How many processes train together; 1 alone."""
    return 1 if _joined_on is None else dist.get_world_size()


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if _joined_on is not None:
        dist.barrier()


def seed_epoch(seed: int) -> torch.Generator | None:
    """Seed this process's own random state, and return one that is the same in all processes (None alone).

    What belongs to a batch as a whole (masked positions, sampled negatives) is drawn from the common state, so the
    draws are those of one process. Dropout comes from a process's own state: its masks differ from those of one device.
    """
    if _joined_on is None:
        torch.manual_seed(seed)
        return None
    torch.manual_seed(seed * size() + rank())
    return torch.Generator(_joined_on).manual_seed(seed)


def own_part(batch: SequenceBatch | PairBatch, draws: torch.Generator | None) -> SequenceBatch | PairBatch:
    """This process's part of a batch (alone: all of it); `draws` is what `seed_epoch` returned."""
    return batch if draws is None else batch.part(rank(), size(), draws)


def own_of(parts: Parts) -> Parts:
    """Every `size`-th of some independent pieces of work, from the `rank`-th on."""
    return parts if _joined_on is None else parts[rank() :: size()]


def share_of_mean(mean: torch.Tensor, n: int | torch.Tensor) -> torch.Tensor:
    """This process's share of a mean over the examples of all processes.

    Args:
        mean: scalar, the mean over the examples of this process; finite where there are none.
        n: how many these are.

    Returns:
        `mean` times n over the number in all processes (0 where there are none at all); alone: `mean` itself.
    """
    return mean if _joined_on is None else mean * _portion(n)


def batch_mean(values: torch.Tensor) -> torch.Tensor:
    """This process's share of the mean of values [examples] over all processes; alone their mean, 0 of none."""
    return share_of_mean(values.sum() / max(len(values), 1), len(values))


@torch.no_grad()
def _portion(n: int | torch.Tensor) -> torch.Tensor:
    own = torch.as_tensor(n, dtype=torch.float64, device=_joined_on)
    everyone = own.clone()
    dist.all_reduce(everyone)
    return (own / everyone.clamp(min=1)).float()


def sum_gradients(model: nn.Module) -> None:
    """Replace each gradient by its sum over all processes."""
    if _joined_on is None:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    for gradient, summed in zip(gradients, together.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def sum_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Add named figures up over all processes, which give the same names in the same order."""
    if _joined_on is None:
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=_joined_on)
    dist.all_reduce(values)
    return dict(zip(figures, values.tolist(), strict=True))


def gathered(value: Value) -> list[Value]:
    """The values of all processes, by rank (alone: of this one)."""
    if _joined_on is None:
        return [value]
    values: list[Value | None] = [None] * size()
    dist.all_gather_object(values, value)
    return [each for each in values if each is not None]
