"""Two ways to maximise soft modularity (G2Rec Eq. 4) with an entropy bonus.

Both solvers maximise

    J(P) = Q_soft(P) + 2 T * sum_i (k_i / |E|) H(p_i),    H(p) = -sum_a p_a log p_a.

With ``dQ_soft / dp_ia = (2 k_i / |E|) field_ia`` and ``field_ia = (A P)_ia / k_i - gamma (P^T k)_a / |E|``, the weight
2 k_i / |E| of each item's entropy cancels, and J is stationary on the simplex exactly where
``p_i = softmax(field_i / T)``. T = 0 is the paper's objective.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.soft_problem import Floats, SoftProblem


@dataclass(frozen=True)
class Solution:
    """P at the support [entries], J there, iterations used, and whether the solver met its tolerance."""

    p: Floats
    objective: float
    iterations: int
    converged: bool


def fixed_point(
    problem: SoftProblem,
    start: Floats,
    temperature: float,
    *,
    damping: float = 0.7,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
) -> Solution:
    """Iterate ``p <- (1 - s) p + s softmax(field(p) / T)`` to the mean-field fixed point.

    The target of each step maximises J with Q_soft made linear at p, so the step is an ascent direction (a conditional
    gradient with the entropy kept exact). A step that lowers J is taken back and s is halved, so J never falls.
    At T = 0 the target is the one-hot argmax of the field, and J is Q_soft itself.

    Args:
        problem: graph, support and resolution.
        start: P [entries] to start from.
        temperature: T >= 0.
        damping: first step size s, in (0, 1].
        tolerance: stop when the degree-weighted mean of ``|p - target|_1 / 2`` is below it.
        max_iterations: of sparse products.

    Raises:
        RecsysError: temperature is negative.
    """
    if temperature < 0:
        raise RecsysError(f"The temperature is {temperature}, expected 0 or more.", mend="set temperature >= 0.")
    support, total = problem.support, problem.total
    share = problem.degree[support.items] / total
    p, direction, step = start, np.zeros_like(start), 0.0
    size, best, gap, iteration = damping, -np.inf, np.inf, 0
    while iteration < max_iterations:
        iteration += 1
        trial = p + step * direction
        pull, mass = problem.product @ trial, problem.mass(trial)
        value = float(trial @ pull / total - problem.gamma * (mass @ mass) / total**2)
        value += 2.0 * temperature * problem.entropy(trial)
        if value < best - 1e-12:
            step = size = size / 2
            if size < 1e-6:
                break
            continue
        p, best = trial, value
        size = min(damping, size * 1.2)
        degree = problem.degree[support.items]
        field = np.divide(pull, degree, out=np.zeros_like(p), where=degree > 0)
        field -= problem.gamma * mass[support.prototypes] / total
        target = support.softmax(field / temperature) if temperature > 0 else support.argmax(field)
        direction, step = target - p, size
        gap = float(np.abs(direction) @ share) / 2
        if gap < tolerance:
            # The last step is taken whole: a hard start within the tolerance still gets its small memberships.
            if (value := problem.objective(target, temperature)) >= best:
                p, best = target, value
            break
    return Solution(p, best, iteration, gap < tolerance)


def adam(
    problem: SoftProblem,
    start: Floats,
    temperature: float,
    *,
    learning_rate: float = 0.1,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
    device: str = "cpu",
) -> Solution:
    """Maximise J over the logits of P by Adam (the paper's way, its T = 0; G2Rec 3.2).

    Args:
        problem: graph, support and resolution.
        start: P [entries] to start from; zeros are lifted to 1e-3 so that their logits can move.
        temperature: T >= 0.
        learning_rate: of Adam.
        tolerance: stop when J rises by less than this over 20 steps.
        max_iterations: most steps.
        device: of torch.

    Raises:
        RecsysError: temperature is negative.
    """
    import torch

    if temperature < 0:
        raise RecsysError(f"The temperature is {temperature}, expected 0 or more.", mend="set temperature >= 0.")
    support, total = problem.support, problem.total

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(array, device=device)

    items, prototypes = tensor(support.items), tensor(support.prototypes.astype(np.int64))
    degree = tensor(problem.degree)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR tensors a beta on first use
        product = torch.sparse_csr_tensor(
            tensor(problem.product.indptr.astype(np.int64)),
            tensor(problem.product.indices.astype(np.int64)),
            tensor(problem.product.data),
            size=problem.product.shape,
            check_invariants=False,
        )
    logits = tensor(np.log(np.maximum(start, 1e-3))).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=learning_rate)

    def log_memberships() -> torch.Tensor:
        top = torch.full_like(degree, -torch.inf).scatter_reduce(0, items, logits.detach(), "amax")
        shifted = logits - top[items]
        return shifted - torch.zeros_like(degree).index_add(0, items, shifted.exp()).log()[items]

    def value_of(log_p: torch.Tensor) -> torch.Tensor:
        p = log_p.exp()
        with torch.no_grad():
            pull = product @ p
        # The product is symmetric: this has the value p'Mp and the gradient 2Mp, without a second product.
        inside = 2.0 * (p * pull).sum() - (p.detach() * pull).sum()
        mass = torch.zeros(support.n_prototypes, dtype=p.dtype, device=device)
        mass = mass.index_add(0, prototypes, p * degree[items])
        entropy = -(p * log_p * degree[items]).sum() / total
        return inside / total - problem.gamma * (mass @ mass) / total**2 + 2.0 * temperature * entropy

    best, best_logits, checkpoint, converged, iteration = -np.inf, logits.detach().clone(), -np.inf, False, 0
    for iteration in range(1, max_iterations + 1):
        optimiser.zero_grad()
        value = value_of(log_memberships())
        if value.item() > best:
            best, best_logits = value.item(), logits.detach().clone()
        if iteration % 20 == 0:
            if best - checkpoint < tolerance:
                converged = True
                break
            checkpoint = best
        (-value).backward()
        optimiser.step()
    with torch.no_grad():
        logits.copy_(best_logits)
        p = log_memberships().exp().cpu().numpy()
    return Solution(p, problem.objective(p, temperature), iteration, converged)
