"""Statistics by class."""

import pytest
import torch

from discli.evaluation.metrics.moments import Moments
from discli.evaluation.metrics.per_class import PerClassMoments
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import gaussian_rows


def test_each_class_has_the_moments_of_its_own_rows():
    rows, labels = gaussian_rows(60, 3, 0), torch.arange(60) % 4
    meter = PerClassMoments(labels, 3)
    for first in range(0, 60, 7):
        meter.update(rows[first : first + 7], first)
    for label, found in meter.classes.items():
        alone = Moments(3)
        alone.update(rows[labels == label])
        torch.testing.assert_close(found.gaussian().covariance, alone.gaussian().covariance)


def test_a_thousand_classes_in_inceptions_dimensions_are_refused_before_they_fill_the_memory():
    with pytest.raises(DiscliError, match="1,000 classes in 2,048 dimensions take 34 GB"):
        PerClassMoments(torch.arange(1000), 2048)
