"""The streamed Inception Score against torch-fidelity's and the definition."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from discli.evaluation.convention import Convention
from discli.evaluation.metric import MetricSetup
from discli.evaluation.metrics.inception_score import InceptionScore


def logits_of(n, classes, seed=0):
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)) * 2


def streamed(logits, splits, batch=17):
    network = SimpleNamespace(dims={"logits": logits.shape[1]}, convention=Convention("x", "tf1-bilinear", splits))
    meter = InceptionScore(MetricSetup(len(logits), network))
    for first in range(0, len(logits), batch):
        meter.update(logits[first : first + batch], first)
    return meter.scores()


@pytest.mark.parametrize("n", [10, 97, 200])
def test_equals_torch_fidelitys_ten_shuffled_splits(n):
    logits = logits_of(n, 11)
    theirs = isc_features_to_metric(logits)
    scores = streamed(logits, "ten-shuffled")
    assert len(scores) == 10
    assert float(scores.mean()) == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert float(scores.std(correction=0)) == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_adm_takes_blocks_of_5000_in_order():
    logits = logits_of(5300, 4)
    p = logits.double().softmax(dim=1).numpy()
    expected = []
    for part in (p[:5000], p[5000:]):
        divergence = (part * (np.log(part) - np.log(part.mean(axis=0)))).sum(axis=1).mean()
        expected.append(np.exp(divergence))
    np.testing.assert_allclose(streamed(logits, "contiguous-5000", batch=64), expected, rtol=1e-12)


def test_undecided_images_score_one_and_certain_varied_ones_the_number_of_classes():
    assert streamed(torch.zeros(40, 6), "contiguous-5000").item() == pytest.approx(1)
    certain = torch.eye(6).repeat(10, 1) * 1e4
    assert streamed(certain, "contiguous-5000").item() == pytest.approx(6)
