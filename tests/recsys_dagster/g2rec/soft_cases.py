"""Small graphs, and soft modularity by loops, for the tests of the graph half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.leiden import leiden
from recsys_dagster.g2rec.network import Network
from recsys_dagster.g2rec.soft_device import soft_problem
from recsys_dagster.g2rec.soft_problem import Inertia, SoftProblem, choose_support


def planted(n_groups: int = 4, size: int = 12, seed: int = 0, isolated: int = 0) -> tuple[pd.DataFrame, int]:
    """Groups with dense ties inside, thin ones between, and the last item of each group leaning on the next group."""
    rng = np.random.default_rng(seed)
    n = n_groups * size
    group = np.arange(n) // size
    source, target = np.triu_indices(n, 1)
    rate = np.where(group[source] == group[target], 0.6, 0.03)
    lean = (source % size == size - 1) & (group[target] == group[source] + 1)
    keep = rng.random(len(source)) < np.where(lean, 0.5, rate)
    weight = rng.integers(1, 4, keep.sum()).astype(np.float32)
    return pd.DataFrame({"source": source[keep], "target": target[keep], "weight": weight}), n + isolated


def problem_of(
    rho: int = 3, gamma: float = 1.3, seed: int = 0, held: bool = False
) -> tuple[SoftProblem, np.ndarray, np.ndarray]:
    """A problem, its dense matrix and its hard labels; `held`: half of the items are held to a random last night."""
    graph, n = planted(seed=seed)
    matrix = adjacency(graph, n)
    labels = leiden(Network.of(graph, n), gamma)
    support = choose_support(matrix, labels, rho, gamma)
    problem = soft_problem(matrix, support, gamma)
    if held:
        weight = np.random.default_rng(seed).uniform(0.2, 2.0, n) * (np.arange(n) % 2)
        inertia = Inertia(weight, np.log(np.maximum(random_p(problem, seed + 1), 1e-4)))
        problem = replace(problem, inertia=inertia)
    return problem, matrix.toarray(), labels


def random_p(problem: SoftProblem, seed: int) -> np.ndarray:
    return problem.softmax(np.random.default_rng(seed).normal(size=problem.support.prototypes.shape) * 2)


def loop_modularity(dense: np.ndarray, P: np.ndarray, gamma: float) -> float:
    degree, q = dense.sum(axis=1), 0.0
    total = degree.sum()
    for i in range(len(dense)):
        for j in range(len(dense)):
            q += (dense[i, j] - gamma * degree[i] * degree[j] / total) * float(P[i] @ P[j]) / total
    return q


def soft_value(dense: np.ndarray, P: np.ndarray, gamma: float) -> float:
    degree = dense.sum(axis=1)
    mass = P.T @ degree
    return float((P * (dense @ P)).sum() / degree.sum() - gamma * (mass @ mass) / degree.sum() ** 2)
