"""Cross-entropy against a sample of the catalogue, corrected for how it was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recsys_dagster.training.distributed import batch_mean
from recsys_dagster.training.loss import ScoreBias


@dataclass(frozen=True)
class Negatives:
    """Items drawn with replacement from a known distribution, one sample for a whole batch.

    Attributes:
        items: int64 [m], distinct, rising.
        log_weights: float [m], log of (times drawn / times expected): what makes a sum over the sample an unbiased
            estimate of the sum over the catalogue (the logQ correction).
    """

    items: torch.Tensor
    log_weights: torch.Tensor


def draw_negatives(n_items: int, n: int, targets: torch.Tensor, generator: torch.Generator | None = None) -> Negatives:
    """Draw n items, half uniformly from the catalogue and half from the batch's own targets.

    Uniform draws keep rare items in their place, targets are drawn as often as they are popular: the distribution is
    ``q_j = 1 / (2 N) + (share of j among targets) / 2``, known exactly.

    Args:
        n_items: size N of the catalogue.
        n: number of draws, at least 2.
        targets: int64 [positions], at least one.
        generator: where draws come from; None: torch's own random state.
    """
    device = targets.device
    uniform = torch.randint(n_items, (n - n // 2,), device=device, generator=generator)
    own = targets[torch.randint(len(targets), (n // 2,), device=device, generator=generator)]
    items, drawn = torch.unique(torch.cat([uniform, own]), return_counts=True)
    share = torch.bincount(targets, minlength=n_items)[items].float() / len(targets)
    expected = (n - n // 2) / n_items + (n // 2) * share
    return Negatives(items, torch.log(drawn / expected))


def sampled_cross_entropy(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    negatives: Negatives,
    bias: ScoreBias | None = None,
) -> torch.Tensor:
    """Mean of ``-s_y + log(exp(s_y) + sum over sampled j != y of w_j exp(s_j))``.

    The sum in the logarithm is an unbiased estimate of the full softmax's, so the more draws, the nearer the loss is to
    `catalogue_cross_entropy`; where every item is drawn as often as expected the two are equal.

    Args:
        queries: float [positions, d].
        items: float [N, d].
        targets: int64 [positions].
        negatives: the sample.
        bias: added to the scores of some pairs.
    """
    sample, rows = negatives.items, torch.arange(len(targets), device=targets.device)
    own = (queries * items[targets]).sum(1)
    scores = queries @ items[sample].T + negatives.log_weights
    if bias is not None:
        is_own = bias.items == targets[bias.positions]
        own = own.index_put((bias.positions[is_own],), bias.values[is_own], accumulate=True)
        slot, drawn = _slots(sample, bias.items)
        scores = scores.index_put((bias.positions[drawn], slot[drawn]), bias.values[drawn], accumulate=True)
    slot, hit = _slots(sample, targets)
    scores = scores.index_put((rows[hit], slot[hit]), torch.full((), -torch.inf, device=scores.device))
    return batch_mean(torch.logaddexp(own, scores.logsumexp(1)) - own)


def _slots(sample: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where items int64 [n] stand in a rising sample: int64 [n], and bool [n], which of them it holds at all."""
    slot = torch.searchsorted(sample, items).clamp(max=len(sample) - 1)
    return slot, sample[slot] == items
