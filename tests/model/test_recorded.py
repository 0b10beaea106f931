"""The network computes what it did when it equalled the authors': in every clone, without their weights."""

import json

import pytest

from tests.model.recorded import CASES, FILE, measured


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_every_gradient_are_those_recorded(case):
    expected, found = json.loads(FILE.read_text())[case], measured(case)
    assert found["values"] == pytest.approx(expected["values"], rel=1e-9)
    assert found["norm"] == pytest.approx(expected["norm"], rel=1e-9)
    assert found["gradients"] == pytest.approx(expected["gradients"], rel=1e-8, abs=1e-12)
    assert len(expected["gradients"]) > 50
