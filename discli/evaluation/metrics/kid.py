"""KID. torch-fidelity computes it, of features that were extracted in our own pass."""

from typing import Any

from torch import Tensor

from discli.evaluation.metric import ReferenceStats, RowsMetric
from discli.evaluation.torch_fidelity import import_torch_fidelity


class KernelInceptionDistance(RowsMetric):
    """KID: squared MMD with a cubic kernel, over random subsets."""

    name = "kid"

    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        mean, std = kernel_distance(self.rows(), reference.rows(self.feature))
        return {"KID": mean, "KID std": std}


def kernel_distance(samples_ND: Tensor, reference_MD: Tensor, subsets: int = 100) -> tuple[float, float]:
    """Mean and deviation over random subsets of KID (arXiv:1801.01401): unbiased squared MMD, kernel (x.y / D + 1)^3.

    Subsets of 1,000 as torch-fidelity's default, of all that there is when there is less; unbiased, so
    values slightly below zero are right for equal distributions.
    """
    module: Any = import_torch_fidelity("metric_kid")
    size = min(1000, len(samples_ND), len(reference_MD))
    found = module.kid_features_to_metric(
        samples_ND, reference_MD, kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]
