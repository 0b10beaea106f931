"""Sizes as callers in Python give them, and as they are written."""

import pytest

from discli.recipe.size import Size, given_size, parse_size
from discli.runtime.errors import DiscliError


def test_a_side_a_pair_and_text_are_sizes():
    assert given_size(64, "--size") == Size(64, 64) == parse_size("64", "--size")
    assert given_size([192, 256], "--size") == Size(192, 256) == parse_size("192x256", "--size")
    assert str(Size(192, 256)) == "192x256"
    assert Size(64, 64).plain() == 64


@pytest.mark.parametrize("value", ["64", 0, -8, 6.5, True, [64], [1, 2, 3], [64, 0], 10**6])
def test_what_is_no_size_is_refused_with_an_example(value):
    with pytest.raises(DiscliError, match="--size") as refused:
        given_size(value, "--size")
    assert "192x256" in refused.value.hint
