"""The recipe of CardNN's shipped weights: ``python -m recsys_dagster.larmi.max_cover.pretrain`` makes them again.

Self-supervised: the network's soft selections of generated instances shall cover as much value as they can. Half of the
instances follow the published recipe, half are cliques of random users; sizes and budgets vary, so that the weights
serve instances of any size. One pass, one instance a step, on one thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from recsys_dagster.larmi.max_cover.generated import clique_instance, random_instance
from recsys_dagster.larmi.max_cover.instance import CoverInstance
from recsys_dagster.larmi.max_cover.network import (
    HOMOTOPY,
    WEIGHTS,
    CoverNetwork,
    gumbel,
    make_graph,
    uncovered,
)
from recsys_dagster.progress import Progress

STEPS, SEED, SAMPLES, LEARNING_RATE = 2_000, 0, 4, 3e-3


def instance_for(step: int, seed: int) -> CoverInstance:
    """The instance of a step: 100 to 800 sets, a budget of 2 to 20 % of them."""
    rng = np.random.default_rng([seed, step])
    n_sets = int(rng.integers(100, 801))
    budget = max(int(n_sets * rng.uniform(0.02, 0.2)), 2)
    if step % 2:
        return clique_instance(n_sets, int(n_sets * rng.uniform(0.3, 1.5)), budget, seed=int(rng.integers(2**31)))
    return random_instance(n_sets, int(n_sets * rng.uniform(1, 3)), budget, seed=int(rng.integers(2**31)))


def pretrain(steps: int = STEPS, seed: int = SEED) -> tuple[CoverNetwork, list[float]]:
    """Train the network.

    Returns:
        the network and the loss of every step.
    """
    generator = torch.Generator().manual_seed(seed)
    losses = []
    with torch.random.fork_rng(devices=[]), Progress("cardnn: pre-training", steps) as progress:
        torch.manual_seed(seed)
        network = CoverNetwork()
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            instance = instance_for(step, seed)
            tau, noise = HOMOTOPY[step % len(HOMOTOPY)]
            graph = make_graph(instance)
            scores = network(graph)
            loss = uncovered(graph, scores + noise * gumbel(len(scores), SAMPLES, generator), instance.budget, tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            progress.update(note=f"uncovered {np.mean(losses[-50:]):.4f}")
    return network, losses


def save(network: CoverNetwork, path: Path, steps: int, seed: int) -> None:
    """Write the weights, with their recipe in the header; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    recipe = {"recipe": "python -m recsys_dagster.larmi.max_cover.pretrain", "steps": str(steps), "seed": str(seed)}
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, beside, metadata=recipe)
    beside.chmod(0o644)  # save_file leaves it to its owner alone
    beside.replace(path)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Pre-train the max-cover network and write its weights.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="safetensors file (default: the shipped one)")
    parser.add_argument("--steps", type=int, default=STEPS, help="instances, one a step")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    network, losses = pretrain(options.steps, options.seed)
    save(network, options.out, options.steps, options.seed)
    first, last = np.mean(losses[:50]), np.mean(losses[-50:])
    print(f"uncovered share of the value: {first:.4f} in the first 50 steps, {last:.4f} in the last")
    print(options.out)


if __name__ == "__main__":
    main()
