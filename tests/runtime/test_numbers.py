"""Numbers for people: commas, and no exponents where digits will do."""

import pytest

from discli.cost.hardware import Hardware
from discli.recipe.study import Budget
from discli.runtime.console import format_bytes
from discli.runtime.numbers import format_number, format_scaled


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 4, "0"),
        (0.03125, 3, "0.0312"),
        (3.14159, 4, "3.142"),
        (2.5, 4, "2.5"),
        (99.96, 3, "100"),
        (999.6, 3, "1,000"),
        (1582.4, 3, "1,582"),
        (15824.4, 4, "15,824"),
        (-15824.4, 4, "-15,824"),
        (12_345_678, 4, "12,345,678"),
        (999_000_000_000_000.0, 3, "999,000,000,000,000"),
        (1e15, 6, "1e15"),
        (1.5e18, 6, "1.5e18"),
        (1e-5, 4, "1e-05"),
        (float("inf"), 4, "inf"),
    ],
)
def test_thousands_have_commas_and_exponents_begin_at_1e15(value, digits, text):
    assert format_number(value, digits) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.7, "1 kB"),
        (999_700, "1 MB"),
        (312_000, "312 kB"),
        (4.71e9, "4.71 GB"),
        (999.9e9, "1 TB"),
        (1.2345e15, "1,234 TB"),
    ],
)
def test_bytes_go_over_into_the_next_unit_when_rounding_does(size, text):
    assert format_bytes(size) == text


def test_so_does_every_scaled_unit():
    assert format_scaled(999.96, ["GFLOPs", "TFLOPs"], digits=4) == "1 TFLOPs"
    assert format_scaled(15_824_000, ["GFLOPs", "TFLOPs"], digits=4) == "15,824 TFLOPs"


def test_a_machine_that_is_described_by_its_speed():
    assert Hardware.of(tflops=1e7).name == "10,000,000 TFLOP/s"
    assert Hardware.of(tflops=0.5).name == "0.5 TFLOP/s"


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ({"images": 12_345_678}, "12,345,678 images each"),
        ({"flops": 1.5e14}, "150,000,000,000,000 FLOPs each"),
        ({"flops": 1e18}, "1e18 FLOPs each"),
        ({"steps": 300}, "300 steps each"),
    ],
)
def test_a_studys_budget(budget, text):
    assert Budget.model_validate(budget).describe() == text
