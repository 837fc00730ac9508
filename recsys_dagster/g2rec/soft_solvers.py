"""Two ways to maximise soft modularity (G2Rec Eq. 4) with an entropy bonus.

Both solvers maximise

    J(P) = Q_soft(P) + 2 T * sum_i (k_i / |E|) H(p_i),    H(p) = -sum_a p_a log p_a.

With ``dQ_soft / dp_ia = (2 k_i / |E|) field_ia`` and ``field_ia = (A P)_ia / k_i - gamma (P^T k)_a / |E|``, the weight
2 k_i / |E| of each item's entropy cancels, and J is stationary on the simplex exactly where
``p_i = softmax(field_i / T)``. T = 0 is the paper's objective.

On a warm night items are held back by last night's memberships q with weights w (see `Inertia`): T H(p_i) becomes
``T (H(p_i) - w_i KL(p_i || q_i))``, and the stationary point
``p_i = softmax((field_i / T + w_i log q_i) / (1 + w_i))``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.soft_problem import Floats, SoftProblem

NOTICED = 0.05
"""L1 change of an item's row from which its neighbours are looked at again before the next sweep over all items."""

CACHED_PLACES = 1_000_000
"""Places of P (12 bytes each) that stay in a processor's cache; of more, items are visited prototype by prototype."""


@dataclass(frozen=True)
class Solution:
    """P at the support [N, rho], J there, iterations used, and whether the solver met its tolerance."""

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
    """Find the mean-field fixed point ``p_i = softmax(field_i / T)`` that lies uphill of a start.

    On the CPU by coordinate ascent: each item in turn takes the row that maximises J exactly, given all others, its own
    share of the mass included (at T = 0 that is a projection on the simplex). On a device by damped simultaneous steps
    (see `damped`), for whose sake `damping` is there. Neither ever lowers J.

    Args:
        problem: graph, support and resolution.
        start: P [N, rho] to start from.
        temperature: T >= 0.
        damping: largest step of the simultaneous steps, in (0, 1].
        tolerance: stop when a sweep moves a smaller share of all degree.
        max_iterations: most sweeps.

    Raises:
        RecsysError: temperature is negative.
    """
    _check(temperature)
    if problem.xp is not np:
        return damped(problem, start, temperature, damping, tolerance, max_iterations)
    from recsys_dagster.g2rec import soft_kernels as kernels

    order = None
    if start.size > CACHED_PLACES:  # an item's neighbours, mostly of its own prototype, then lie near each other
        labels = np.take_along_axis(problem.support.prototypes, start.argmax(axis=1)[:, None], axis=1)[:, 0]
        order = np.argsort(labels, kind="stable")
        problem, start = problem.reordered(order), start[order]
    p = np.array(start, dtype=np.float64)
    mass = problem.mass(p)
    matrix, support, stale = problem.matrix, problem.support, np.ones(len(p), dtype=np.bool_)
    moved, iteration, whole = np.inf, 0, True
    while iteration < max_iterations:
        iteration += 1
        moved = kernels.ascend(
            matrix.indptr, matrix.indices, matrix.data, problem.degree, support.prototypes, support.sizes, p, mass,
            problem.gamma, problem.total, float(temperature), problem.inertia.weight, problem.inertia.log_last, stale,
            NOTICED,
        )  # fmt: skip
        if moved < tolerance and whole:
            break
        # Between sweeps over all items only those are visited whose neighbours changed, until these are at rest.
        whole = moved < tolerance
        stale |= whole
    objective = problem.objective(p, temperature)
    if order is not None:
        p[order] = p.copy()
    return Solution(p, objective, iteration, bool(whole and moved < tolerance))


def damped(
    problem: SoftProblem, start: Floats, temperature: float, damping: float, tolerance: float, max_iterations: int
) -> Solution:
    """Iterate ``p <- (1 - s) p + s softmax(field(p) / T)`` for all items at once; arguments as for `fixed_point`.

    The target of each step maximises J with Q_soft made linear at p, so the step is an ascent direction (a conditional
    gradient with the entropy kept exact). A step that would lower J is halved until it does not; as A P is linear in P
    that needs no further product, and an iteration is one product whatever its step. At T = 0 the target is the one-hot
    argmax of the field.
    """
    p = problem.array(start)
    pull, mass = problem.pull(p), problem.mass(p)
    value, size, gap, iteration = problem.objective(p, temperature, pull, mass), damping, np.inf, 0
    while iteration < max_iterations:
        iteration += 1
        field = problem.field(p, pull, mass)
        target = problem.target(field, temperature)
        direction = target - p
        gap = problem.moved(direction)
        if gap == 0.0:
            break
        pull_step, mass_step = problem.pull(direction), problem.mass(direction)
        # The last step is taken whole if it may be: a hard start within the tolerance still gets its small memberships.
        step = 1.0 if gap < tolerance else size
        while step > 1e-6:
            trial = p + step * direction, pull + step * pull_step, mass + step * mass_step
            reached = problem.objective(trial[0], temperature, trial[1], trial[2])
            if reached >= value - 1e-12:
                break
            step /= 2
        else:
            break
        (p, pull, mass), value = trial, reached
        if gap < tolerance:
            break
        size = min(damping, step * 1.2)
    return Solution(problem.numpy(p), value, iteration, bool(gap < tolerance))


def adam(
    problem: SoftProblem,
    start: Floats,
    temperature: float,
    *,
    learning_rate: float = 0.1,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
    stop_at: float = np.inf,
) -> Solution:
    """Maximise J over the logits of P by Adam (the paper's way, its T = 0; G2Rec 3.2), with J's exact gradient.

    Args:
        problem: graph, support and resolution.
        start: P [N, rho] to start from; zeros are lifted to 1e-3 so that their logits can move.
        temperature: T >= 0.
        learning_rate: of Adam.
        tolerance: stop when J rises by less than this over 20 steps.
        max_iterations: most steps.
        stop_at: stop as soon as J is as large.

    Raises:
        RecsysError: temperature is negative.
    """
    _check(temperature)
    xp = problem.xp
    logits = xp.log(xp.clip(problem.array(start), 1e-3, None))
    first, second = xp.zeros_like(logits), xp.zeros_like(logits)
    weight = 2.0 * problem.array(problem.degree)[:, None] / problem.total
    held, log_last = problem.array(problem.inertia.weight)[:, None], problem.array(problem.inertia.log_last)
    best, best_p, checkpoint, converged, iteration = -np.inf, logits, -np.inf, False, 0
    for iteration in range(1, max_iterations + 1):
        p = problem.softmax(logits)
        pull, mass = problem.pull(p), problem.mass(p)
        value = problem.objective(p, temperature, pull, mass)
        if value > best:
            best, best_p = value, p
        if best >= stop_at:
            converged = True
            break
        if iteration % 20 == 0:
            if best - checkpoint < tolerance:
                converged = True
                break
            checkpoint = best
        softness = held * log_last - (1 + held) * xp.log(xp.clip(p, 1e-300, None))
        slope = weight * (problem.field(p, pull, mass) + temperature * softness)
        gradient = p * (slope - (p * slope).sum(axis=1)[:, None])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**iteration) / ((second / (1 - 0.999**iteration)) ** 0.5 + 1e-8)
        logits = logits + learning_rate * step
    return Solution(problem.numpy(best_p), best, iteration, converged)


def _check(temperature: float) -> None:
    if temperature < 0:
        raise RecsysError(f"The temperature is {temperature}, expected 0 or more.", mend="set temperature >= 0.")
