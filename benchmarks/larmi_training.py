"""What LARMI costs over MIND in training, and dynamic routing beside the loop of the public PyTorch ports.

`python -m benchmarks.training --model larmi` runs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.larmi_stages import Stages
from benchmarks.training import Ours, Trainee, take_turns
from recsys_dagster.baselines.config import MINDConfig
from recsys_dagster.baselines.mind import MIND
from recsys_dagster.data.prepare import Prepared
from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.train import assembly
from recsys_dagster.layers.capsules import route, visible_prefixes
from recsys_dagster.training.data import SequenceData

WEIGHT = 0.01
"""Lambda: the contrastive loss is taken every 100 steps, so windows should be of 100 steps each."""
ROWS, LENGTH, INTERESTS, DIMENSION, ROUNDS = 128, 20, 4, 64, 3
"""Shape of the routing: the paper's batch size, longest history, suggested K and dimension."""
ROUTING_REPEATS = 7

Route = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def overhead(data: SequenceData, tables: Prepared, steps: int, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Steps a second of LARMI and MIND: the same batches, dimension, interests, rounds and similarity.

    MIND's loss scores the catalogue with the target's interest alone, Eq. 12 with all K; `overhead_same_loss` is over
    LARMI's capsules alone under Eq. 12, so what clusters, alignment and the contrastive loss cost.
    """
    made = Stages(data, tables.items)
    larmi = LARMIConfig(contrastive_weight=WEIGHT)
    shared = {name: getattr(larmi, name) for name in ("batch_size", "dimension", "interests", "routing_rounds")}
    mind = MINDConfig(**shared, similarity=larmi.similarity)
    torch.manual_seed(0)
    chosen = made.selected().clusters
    build, shape = assembly(data, made.user_clusters, chosen, larmi)
    without = {"semantic": False, "crowd": False, "labels": False, "contrastive_weight": 0.0, "apart_weight": 0.0}
    bare = larmi.model_copy(update=without)
    build_bare, shape_bare = assembly(data, made.user_clusters, chosen, bare)
    models: dict[str, Trainee] = {
        "mind": Ours(MIND(mind, n_items=data.n_items, max_length=data.max_length), data, mind, device=device),
        "capsules": Ours(build_bare(bare, **shape_bare), data, bare, device=device),
        "larmi": Ours(build(larmi, **shape), data, larmi, device=device),
    }
    rates = take_turns(models, steps, rounds)
    steps_of = {name: rate["steps_per_second"] for name, rate in rates.items()}
    ratios = {"overhead": "mind", "overhead_same_loss": "capsules"}
    return {"models": rates, **{name: round(steps_of[of] / steps_of["larmi"], 3) for name, of in ratios.items()}}


def ported(x: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Routing as the public ports have it: a copy of the mapped items for each interest, and one product an interest.

    Args:
        x: W v, float [rows, length, d].
        seen: bool [rows, length].
        logits: float [length, K].

    Returns:
        m of Eq. 14, float [rows, K, d].
    """
    rows, length, d = x.shape
    k = logits.shape[1]
    copies = x.repeat(1, 1, k).view(rows, length, k, d).transpose(1, 2).contiguous()
    still = copies.detach()
    b = logits.T[None].repeat(rows, 1, 1)
    mask = seen[:, None, :].repeat(1, k, 1)
    for turn in range(ROUNDS):
        c = torch.where(mask, torch.softmax(b, dim=1), torch.zeros_like(b))[:, :, None]  # [rows, K, 1, length]
        m = torch.matmul(c, copies if turn == ROUNDS - 1 else still)
        if turn < ROUNDS - 1:
            norm = m.square().sum(-1, keepdim=True)
            e = norm / (1 + norm) / torch.sqrt(norm + 1e-9) * m
            b = b + torch.matmul(still, e.transpose(2, 3)).view(rows, k, length)
    return m.view(rows, k, d)


def ours(x: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The same by `layers.capsules.route`."""
    valid = torch.ones(len(x), 1, logits.shape[1], dtype=torch.bool)
    return route(x, seen[:, None], logits, valid, ROUNDS)[0][:, 0]


def ported_prefixes(x: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Every prefix of every history as a row of its own, as the ports' batches have it: [rows * length, K, d]."""
    rows, length, d = x.shape
    each = x[:, None].expand(rows, length, length, d).reshape(-1, length, d)
    return ported(each, visible_prefixes(seen).reshape(-1, length), logits)


def our_prefixes(x: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The same in one call of `route`, with the weights alone for each prefix."""
    valid = torch.ones(len(x), x.shape[1], logits.shape[1], dtype=torch.bool)
    return route(x, visible_prefixes(seen), logits, valid, ROUNDS)[0].flatten(0, 1)


def routing_inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random mapped items, histories of all lengths, starting logits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, LENGTH, DIMENSION, generator=generator).requires_grad_()
    lengths = torch.randint(1, LENGTH + 1, (rows, 1), generator=generator)
    return x, torch.arange(LENGTH) < lengths, torch.randn(LENGTH, INTERESTS, generator=generator)


def seconds_of(one: Route, other: Route, rows: int, calls: int) -> tuple[float, float]:
    """Processor seconds of a forward and backward pass of each: the least of several turns, the first unmeasured."""
    inputs, seconds = routing_inputs(rows), np.empty((ROUTING_REPEATS + 1, 2))
    gradient = torch.randn(one(*inputs).shape, generator=torch.Generator().manual_seed(1))
    for turn in range(len(seconds)):
        for column, routing in enumerate((one, other)):
            started = time.process_time()
            for _ in range(calls):
                torch.autograd.grad(routing(*inputs), inputs[0], gradient)
            seconds[turn, column] = (time.process_time() - started) / calls
    first, second = seconds[1:].min(axis=0)
    return float(first), float(second)


def routing() -> dict[str, Any]:
    """How many times faster routing is here: whole histories, and all their prefixes, which is what training needs."""
    found: dict[str, Any] = {}
    for name, theirs, mine, rows, calls in (
        ("routing", ported, ours, ROWS, 10),
        ("routing_prefixes", ported_prefixes, our_prefixes, ROWS // 4, 2),
    ):
        slow, quick = seconds_of(theirs, mine, rows, calls)
        found |= {f"{name}_ms": round(quick * 1e3, 3), f"{name}_ported_ms": round(slow * 1e3, 3)}
        found[f"{name}_speedup"] = round(slow / quick, 2)
    return found
