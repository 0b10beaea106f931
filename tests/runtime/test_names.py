"""Folding: nothing is lost that fits, and what sets two names apart is seen."""

import pytest

from discli.runtime.names import fold


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("concat", "concat"),
        ("", ""),
        ("tench, Tinca tinca", "tench,\nTinca\ntinca"),
        ("patch=2,skip=add", "patch=2,\nskip=add"),
        ("abcdefghijklmnopqr", "abcdefghij\nklmnopqr"),
        ("a=1,b=22222222,c=33333333,d=4", "a=1,\nb=22222222\n,\u2026"),
    ],
)
def test_names_are_broken_where_they_have_parts(name, folded):
    assert fold(name, width=10, most=3) == folded
