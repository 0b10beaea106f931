"""KID and improved precision and recall: the metrics that need every feature at once.

torch-fidelity computes both; here its functions meet features that were extracted in our own pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discli.evaluation.features.torch_fidelity import import_torch_fidelity

NEIGHBOURS = 3


class FeatureBuffer:
    """The rows themselves, or of "images" the pixels.

    Memory: 4 * n * D bytes (0.41 GB for 50,000 samples at D = 2048).

    ``wanted``: which indices of the stream to keep; all of them when None.
    """

    def __init__(self, feature: str = "features", wanted: Tensor | None = None) -> None:
        self.feature = feature
        self._wanted = wanted
        self._rows: list[Tensor] = []

    def update(self, rows_BD: Tensor, first: int) -> None:
        if self._wanted is not None:
            rows_BD = rows_BD[torch.isin(torch.arange(first, first + len(rows_BD)), self._wanted)]
        self._rows.append(rows_BD.float().cpu())

    def merge(self, other: "FeatureBuffer") -> None:
        self._rows += other._rows

    def rows(self) -> Tensor:
        """(n, D) float32, in the order of the stream."""
        return torch.cat(self._rows)


@dataclass(frozen=True)
class KernelDistance:
    """KID over random subsets: mean and standard deviation."""

    mean: float
    std: float
    subset_size: int
    subsets: int


def kernel_distance(samples_ND: Tensor, reference_MD: Tensor, subsets: int = 100) -> KernelDistance:
    """KID (arXiv:1801.01401): unbiased squared MMD with the kernel (x.y / D + 1)^3, over random subsets.

    Subsets of 1,000 as torch-fidelity's default, of all that there is when there is less; unbiased, so
    values slightly below zero are right for equal distributions.
    """
    module: Any = import_torch_fidelity("metric_kid")
    size = min(1000, len(samples_ND), len(reference_MD))
    found = module.kid_features_to_metric(
        samples_ND, reference_MD, kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    return KernelDistance(
        found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"], size, subsets
    )


def precision_recall(samples_ND: Tensor, reference_MD: Tensor) -> tuple[float, float]:
    """Improved precision and recall (arXiv:1904.06991), k = 3: the share of samples within some reference
    image's ball, and the share of reference images within some sample's ball.

    Memory: blocks of 2,000 rows of the n x m distances, 0.4 GB each at 50,000. ADM's evaluator computes the same
    with distances rounded to float16.
    """
    module: Any = import_torch_fidelity("metric_prc")
    assert min(len(samples_ND), len(reference_MD)) > NEIGHBOURS
    found = module.prc_features_to_metric(
        samples_ND,
        reference_MD,
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=2000,
        save_cpu_ram=True,
        verbose=False,
    )
    return found["precision"], found["recall"]
