"""The walks of the scans: drawn by hand, and followed by the mixers."""

import itertools

import pytest
import torch

from discli.model.init import initialise
from discli.model.order import TokenOrder, token_orders
from discli.recipe.choices import build
from discli.recipe.kinds import ScanOrderSpec
from discli.recipe.model import SCAN_ORDERS
from discli.recipe.size import Size
from discli.scan import bidirectional_scan
from tests.model.small import laid_out, small, small_recipe

# The place of each patch in the walk, as it lies in the image.
COLUMNS = """
    0 3 6
    1 4 7
    2 5 8
"""
ZIGZAGS = [
    """
    0 1 2
    5 4 3
    6 7 8
    """,
    """
    0 5 6
    1 4 7
    2 3 8
    """,
    """
    2 1 0
    3 4 5
    8 7 6
    """,
    """
    6 5 0
    7 4 1
    8 3 2
    """,
    """
    8 7 6
    3 4 5
    2 1 0
    """,
    """
    8 3 2
    7 4 1
    6 5 0
    """,
    """
    6 7 8
    5 4 3
    0 1 2
    """,
    """
    2 3 8
    1 4 7
    0 5 6
    """,
]


def _walks(name: str, side: int, block: int) -> list[list[int]]:
    return SCAN_ORDERS[name]().walks(Size.square(side), block)


def _drawn(image: str) -> list[int]:
    places = [int(number) for number in image.split()]
    return [places.index(step) for step in range(len(places))]


def test_columns_as_drawn():
    assert _walks("columns", 3, 5) == [_drawn(COLUMNS)]


@pytest.mark.parametrize("block", range(8))
def test_zigzags_as_drawn(block):
    assert _walks("zigzag", 3, block) == _walks("zigzag", 3, block + 8) == [_drawn(ZIGZAGS[block])]


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (7, 7), (3, 5), (6, 8), (8, 6), (1, 4), (4, 1)])
def test_a_zigzag_visits_every_patch_once_and_each_step_goes_to_a_neighbour(grid):
    height, width = grid
    for block in range(8):
        (walk,) = SCAN_ORDERS["zigzag"]().walks(Size(*grid), block)
        assert sorted(walk) == list(range(height * width))
        steps = [(abs(a // width - b // width), abs(a % width - b % width)) for a, b in itertools.pairwise(walk)]
        assert all(step in ((0, 1), (1, 0)) for step in steps)
        along = width if block % 2 == 0 else height  # rows, and columns
        lines = [walk[start : start + along] for start in range(0, len(walk), along)]
        assert all(len({place // width if block % 2 == 0 else place % width for place in line}) == 1 for line in lines)


@pytest.mark.parametrize("grid", [(3, 5), (6, 8), (8, 6)])
def test_rows_go_right_and_columns_down_on_any_grid(grid):
    height, width = grid
    for name in ("raster", "columns", "four", "four-shared", "four-split"):
        for walk in SCAN_ORDERS[name]().walks(Size(*grid), 0):
            down = walk[1] - walk[0] == width
            line = height if down else width
            steps = [b - a for a, b in itertools.pairwise(walk)]
            assert sorted(walk) == list(range(height * width))
            assert all(step == (width if down else 1) for i, step in enumerate(steps) if (i + 1) % line)


def test_four_are_rows_and_columns():
    assert _walks("four", 3, 1) == [list(range(9)), _drawn(COLUMNS)]


def test_a_token_order_leaves_the_extra_tokens_in_front_and_leads_back():
    class Given(ScanOrderSpec):
        name: str = "given"

        def walks(self, grid, block):
            return [[2, 0, 3, 1]]

    order = laid_out(TokenOrder(Given(), 0, 0, extra_tokens=2), 2)
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert order.permute(tokens).flatten().tolist() == [0, 1, 4, 2, 5, 3]
    assert torch.equal(order.unpermute(order.permute(tokens)), tokens)


def test_raster_order_moves_nothing():
    (order,) = token_orders(small_recipe().model.scan_order, block=3, extra_tokens=2)
    laid_out(order, 4)
    tokens = torch.randn(1, 18, 4)
    assert order.permute(tokens) is tokens
    assert order.unpermute(tokens) is tokens
    assert not list(order.buffers())


@pytest.mark.parametrize(("order", "block", "image"), [("columns", 0, COLUMNS), ("zigzag", 3, ZIGZAGS[3])])
def test_a_mixer_scans_the_tokens_as_they_are_drawn(order, block, image):
    """The scan of tokens laid out along the path by hand, each result put back where its token came from."""
    mixer = _mixer_of_3x3(order, block)
    u = torch.randn(2, 11, 32, dtype=torch.float64)
    walk = [0, 1, *(2 + patch for patch in _drawn(image))]
    x, z = mixer.in_proj(u).chunk(2, dim=-1)
    x, z = (torch.stack([tokens[:, i] for i in walk], dim=1) for tokens in (x, z))
    y = bidirectional_scan(x, z, mixer.forward_scan.params(), mixer.backward_scan.params(), "reference")
    expected = torch.empty_like(u)
    for step, i in enumerate(walk):
        expected[:, i] = mixer.out_proj(y[:, step])
    torch.testing.assert_close(mixer(u), expected)


def test_four_is_the_sum_of_two_bidirectional_scans_with_their_own_parameters():
    mixer = _mixer_of_3x3("four", 2)
    names = {name for name, _ in mixer.named_parameters()}
    assert {"forward_scan.A_log", "backward_scan.A_log", "other_scans.0.A_log", "other_scans.1.A_log"} < names
    for number, scan in enumerate(mixer.other_scans):
        assert not torch.equal(scan.x_proj, [mixer.forward_scan, mixer.backward_scan][number].x_proj)
    u = torch.randn(2, 11, 32, dtype=torch.float64)
    x, z = mixer.in_proj(u).chunk(2, dim=-1)
    transposed = [0, 1] + [2 + 3 * (k % 3) + k // 3 for k in range(9)]  # its own inverse
    rows = bidirectional_scan(x, z, mixer.forward_scan.params(), mixer.backward_scan.params(), "reference")
    down, up = (scan.params() for scan in mixer.other_scans)
    columns = bidirectional_scan(x[:, transposed], z[:, transposed], down, up, "reference")[:, transposed]
    torch.testing.assert_close(mixer(u), mixer.out_proj(rows + columns))


def _mixer_of_3x3(order: str, block: int) -> torch.nn.Module:
    spec = small_recipe(scan_order=order, scan="reference").model
    torch.manual_seed(0)
    mixer = laid_out(build(spec.mixer, spec, token_orders(spec.scan_order, block=block, extra_tokens=2)), 3)
    mixer.register_parameter("pos_embed", torch.nn.Parameter(torch.zeros(1)))
    initialise(mixer)
    return mixer.double()


def test_transposed_images_give_transposed_answers_when_rows_become_columns():
    """Raster on an image and columns on its mirror image along the diagonal are the same computation."""
    torch.manual_seed(0)
    by_rows, by_columns = small(), small(scan_order="columns")
    by_columns.load_state_dict(by_rows.state_dict())
    with torch.no_grad():
        by_columns.patch_embed.weight.copy_(by_rows.patch_embed.weight.mT)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 4])
    out = by_rows(x, t, y)
    other = by_columns(x.mT, t, y)
    patches = out.unflatten(2, (4, 2)).unflatten(4, (4, 2))  # (B, C, rows, 2, columns, 2)
    theirs = other.unflatten(2, (4, 2)).unflatten(4, (4, 2))
    torch.testing.assert_close(theirs.transpose(2, 4), patches)
