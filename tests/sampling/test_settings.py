"""Class names and numbers as people write them."""

import pytest

from discli.runtime.errors import DiscliError
from discli.sampling.settings import parse_classes

IMAGENET = ("tench, Tinca tinca", "goldfish", "golden retriever", "Crane", "crane_machine", "maillot, tank suit")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("random", ()),
        ("balanced", (0, 1, 2, 3, 4, 5)),
        ("golden retriever", (2,)),
        ("Golden Retriever,goldfish", (2, 1)),
        ("tench, Tinca tinca, 4", (0, 4)),
        ("tench,3", (0, 3)),
        ("crane machine", (4,)),
        ("Tinca tinca", (0,)),
        (["tench, Tinca tinca", 5], (0, 5)),
        ([], ()),
        ("3,3,1", (3, 3, 1)),
    ],
)
def test_names_and_numbers_are_understood(given, expected):
    assert parse_classes(given, 6, IMAGENET) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [("golden retreiver", "Did you mean 'golden retriever'"), ("6", "0 to 5"), ("-1", "0 to 5"), ("1,,2", "no such")],
)
def test_others_are_refused_with_the_nearest_name(given, says):
    with pytest.raises(DiscliError, match=says):
        parse_classes(given, 6, IMAGENET)
