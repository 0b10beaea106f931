"""The Inception Score (arXiv:1606.03498)."""

import numpy as np
import torch
from torch import Tensor

from discli.evaluation.metric import Metric, MetricSetup, ReferenceStats


class InceptionScore(Metric):
    """Inception Score, of the samples alone.

    exp of the mean KL divergence between each image's class distribution and its split's average. The splits are
    part of the convention: torch-fidelity shuffles (seed 2020) and takes ten parts, ADM takes each 5,000 samples in
    order. Memory: splits * classes, since the mean of KL(p | q) = mean(sum p log p) - sum q log q needs no more than
    two sums per split.
    """

    name = "is"
    feature = "logits"
    needs = "nothing"

    def __init__(self, setup: MetricSetup) -> None:
        convention = setup.extractor.convention
        n, splits = setup.n, convention.splits if convention is not None else "ten-shuffled"
        classes = setup.extractor.dims[self.feature]
        if splits == "ten-shuffled":
            count = min(10, n)
            place = np.empty(n, dtype=np.int64)
            place[np.random.RandomState(2020).permutation(n)] = np.arange(n)
            bounds = np.array([i * n // count for i in range(1, count)])
            split_of = np.searchsorted(bounds, place, side="right")
        else:
            count = (n + 4999) // 5000
            split_of = np.arange(n) // 5000
        self._split_of = torch.from_numpy(split_of)
        self._n = torch.zeros(count, dtype=torch.float64)
        self._p = torch.zeros(count, classes, dtype=torch.float64)
        self._p_log_p = torch.zeros(count, dtype=torch.float64)

    def update(self, logits_BK: Tensor, first: int) -> None:
        split = self._split_of[first : first + len(logits_BK)]
        log_p = logits_BK.double().log_softmax(dim=1)
        p = log_p.exp()
        self._n.index_add_(0, split, torch.ones(len(split), dtype=torch.float64))
        self._p.index_add_(0, split, p)
        self._p_log_p.index_add_(0, split, (p * log_p).sum(dim=1))

    def merge(self, other: "InceptionScore") -> None:
        self._n += other._n
        self._p += other._p
        self._p_log_p += other._p_log_p

    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        scores = self.scores()
        spread = {"IS std": float(scores.std(correction=0))} if len(scores) > 1 else {}
        return {"IS": float(scores.mean())} | spread

    def scores(self) -> Tensor:
        """One score per split, float64."""
        marginal = self._p / self._n[:, None]
        # xlogy: a class that no image has contributes nothing, not 0 * -inf.
        return torch.exp(self._p_log_p / self._n - torch.xlogy(marginal, marginal).sum(dim=1))
