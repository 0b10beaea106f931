"""Token routing: scans keep their order, tokens that stay out come back as they went, and resuming is exact."""

import shutil

import pytest
import torch

from discli.cost.flops import forward_flops, training_flops
from discli.model import DiS
from discli.model.grid_convs.depthwise import DepthwiseGridConv
from discli.model.mixers.attention import Rotary
from discli.model.order import token_orders
from discli.model.routing import Route, RoutedSpan
from discli.recipe import parse_recipe
from discli.recipe.model import MIXERS, SCAN_ORDERS
from discli.recipe.train import RouteSpec
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training.routing import draw_route
from discli.training.train import train
from tests.model.small import laid_out, small_recipe
from tests.tiny_run import arguments, content, losses, together

ROUTED = ["model.depth=5", "model.scan_order=zigzag", "train.route={outer=1}"]


@pytest.fixture(scope="module")
def whole(recipe, digits_file, tmp_path_factory):
    return train(recipe, data=digits_file, out=tmp_path_factory.mktemp("run") / "run", overrides=ROUTED)


def _with(depth=5, train=(), **model):
    tree = small_recipe(**model).model_dump(mode="json")
    tree["model"] |= {"depth": depth, "preset": None}
    tree["train"] |= dict(train)
    return parse_recipe(tree, "x")


def _inputs(recipe, images=3):
    torch.manual_seed(1)
    x = torch.randn(images, *recipe.input_shape)
    return x, torch.arange(images) * 100, torch.arange(images) if recipe.model.num_classes else None


def _some(patches: int, images: int, kept: int) -> torch.Tensor:
    return torch.rand(images, patches).argsort(1)[:, :kept].sort(1).values


@pytest.mark.parametrize("name", list(SCAN_ORDERS))
@pytest.mark.parametrize("extra", [0, 2])
def test_tokens_that_stay_are_visited_in_the_order_of_the_walk(name, extra):
    kept = _some(16, 3, 7)
    tokens = torch.cat([torch.arange(extra).expand(3, -1), kept + extra], 1)
    for block in range(8):
        for order in token_orders(SCAN_ORDERS[name](), block, extra):
            laid_out(order, 4)
            everything = order.permute(torch.arange(extra + 16).expand(1, -1).unsqueeze(2)).flatten().tolist()
            order.leave_only(tokens)
            visited = order.permute(tokens.unsqueeze(2)).squeeze(2)
            for image in range(3):
                assert visited[image].tolist() == [one for one in everything if one in tokens[image]]
            assert torch.equal(order.unpermute(visited.unsqueeze(2)).squeeze(2), tokens)
            order.leave_only(None)
            assert order.permute(torch.arange(extra + 16).expand(1, -1).unsqueeze(2)).flatten().tolist() == everything


def test_those_that_stay_out_come_back_as_they_went():
    route = Route(_some(16, 2, 5), outer=1)
    span = RoutedSpan([torch.nn.Identity() for _ in range(5)], route, extra_tokens=2)
    hidden, residual = torch.randn(2, 2, 18, 4).unbind()
    assert span.enter(0, hidden, None)[0] is hidden
    inside = span.enter(1, hidden, residual)
    for image in range(2):
        wanted = torch.cat([torch.arange(2), route.kept[image] + 2])
        assert torch.equal(inside[0][image], hidden[image, wanted])
        assert torch.equal(inside[1][image], residual[image, wanted])
    assert span.enter(2, *inside) == inside
    assert span.leave(2, *inside) == inside
    back = span.leave(3, inside[0] + 1, inside[1] - 1)
    for stream, before, change in ((back[0], hidden, 1), (back[1], residual, -1)):
        for image in range(2):
            stays = torch.zeros(18, dtype=torch.bool)
            stays[:2] = True
            stays[route.kept[image] + 2] = True
            assert torch.equal(stream[image][~stays], before[image][~stays])
            assert torch.allclose(stream[image][stays], before[image][stays] + change)


@pytest.mark.parametrize("mixer", list(MIXERS))
@pytest.mark.parametrize("grid_conv", ["none", "depthwise"])
def test_with_all_patches_kept_it_is_the_same_network(mixer, grid_conv):
    order = "zigzag" if MIXERS[mixer].ordered else "raster"
    recipe = _with(mixer=mixer, scan_order=order, grid_conv=grid_conv)
    network, inputs = DiS.from_recipe(recipe), _inputs(recipe)
    every = Route(torch.arange(recipe.num_patches).expand(3, -1), outer=1)
    plain = network(*inputs)
    assert torch.allclose(network(*inputs, route=every), plain, atol=1e-5)
    some = network(*inputs, route=Route(_some(recipe.num_patches, 3, 4), outer=1))
    assert not torch.allclose(some, plain, atol=1e-4)
    assert torch.equal(network(*inputs), plain)  # nothing is left of the route


@pytest.mark.parametrize("skip", ["concat", "add", "none"])
def test_checkpointed_blocks_give_the_same_gradients(skip):
    recipe = _with(scan_order="zigzag", skip=skip)
    network, inputs = DiS.from_recipe(recipe), _inputs(recipe)
    route, found = Route(_some(recipe.num_patches, 3, 6), outer=1), []
    for checkpointed in (False, True):
        network.checkpoint_blocks = checkpointed
        network.zero_grad()
        network(*inputs, route=route).square().mean().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in found[0][2:])


def test_each_step_and_image_draws_its_own_whatever_the_batch_is_cut_into():
    recipe = _with(train={"route": {"outer": 1, "share": 0.5, "stop_at": 0.5}, "steps": 100})
    slots = torch.arange(64)
    kept = draw_route(recipe, 3, 7, slots).kept
    assert kept.shape == (64, recipe.num_patches // 2)
    assert (kept.diff(dim=1) > 0).all()
    assert torch.equal(draw_route(recipe, 3, 7, slots[8:16]).kept, kept[8:16])
    assert not torch.equal(draw_route(recipe, 3, 8, slots).kept, kept)
    counts = torch.bincount(kept.flatten(), minlength=recipe.num_patches)
    assert counts.min() > 15  # of 32 that are expected
    assert counts.max() < 49
    assert draw_route(recipe, 3, 50, slots) is None
    assert draw_route(_with(), 3, 0, slots) is None


def test_the_span_lies_around_the_middle():
    assert list(RouteSpec(outer=2).blocks(7)) == [3, 4, 5]
    assert RouteSpec(share=0.5).kept(64) == 32
    assert RouteSpec(share=0.99).kept(4) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"route": {"outer": 3}}, r"train\.route\.outer 3"),
        ({"route": {"outer": 1}, "layersync": {"early": 1, "late": 3}}, r"train\.layersync looks at block 3"),
        ({"route": {"outer": 1}, "align": {}}, r"train\.align looks at block 2"),
    ],
)
def test_what_does_not_go_with_it_is_refused(settings, says):
    with pytest.raises(DiscliError, match=says) as refusal:
        _with(train=settings)
    assert refusal.value.status == 2


def test_a_loss_outside_of_the_span_goes_with_it():
    assert _with(train={"route": {"outer": 1}, "layersync": {"early": 1, "late": 5}, "sra": {"student": 1}})


def test_operations_are_counted_as_they_are_done():
    recipe = _with()
    assert training_flops(recipe) == 3 * sum(forward_flops(recipe).values())
    half = _with(train={"route": {"outer": 1}})
    assert 0.5 < training_flops(half) / training_flops(recipe) < 0.85
    assert training_flops(_with(train={"route": {"outer": 1, "stop_at": 0.0}})) == training_flops(recipe)
    taught = training_flops(_with(train={"sra": {"teacher": 5}})) / training_flops(recipe)
    assert 1.2 < taught < 1.34


def test_resumed_it_ends_with_the_same_bits(recipe, whole, digits_file, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "00000012")
    train(recipe, data=digits_file, out=run, overrides=ROUTED)
    assert content(run) == content(whole)
    plain = train(recipe, data=digits_file, out=tmp_path / "plain", overrides=[*ROUTED[:2], "train.steps=3"])
    assert losses(plain)[0] != losses(whole)[0]


@pytest.mark.parametrize("how", [["train.micro_batch=2"], ["train.activation_checkpointing=true"]])
def test_the_same_however_a_step_is_computed(how, recipe, whole, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=[*ROUTED, *how])
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)


def test_it_stops_at_its_share_of_the_steps(recipe, digits_file, tmp_path):
    never = ["model.depth=5", "model.scan_order=zigzag", "train.route={outer=1, stop_at=0.0}"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=never)
    plain = train(recipe, data=digits_file, out=tmp_path / "plain", overrides=ROUTED[:2])
    assert losses(run) == losses(plain)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [[], ['train.parallel="fsdp2"']])
def test_the_same_with_two_processes(sharding, recipe, whole, digits_file, tmp_path):
    run = tmp_path / "run"
    together(*arguments(recipe, digits_file, run, *ROUTED, *sharding))
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.slow
def test_compiled_blocks_do_the_same(recipe, whole, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=[*ROUTED, "train.compile=true"])
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)
    assert len(read_log(run / "metrics.jsonl")) == 4


def test_a_convolution_over_the_grid_sees_zeros_where_patches_are_left_out():
    torch.manual_seed(0)
    conv = laid_out(DepthwiseGridConv(4, 2, "before", 3), 4)
    torch.nn.init.normal_(conv.weight)
    torch.nn.init.normal_(conv.bias)
    tokens, kept = torch.randn(3, 18, 4), _some(16, 3, 6)
    there = torch.zeros(3, 16, 1).scatter(1, kept.unsqueeze(2), 1.0)
    whole = conv(torch.cat([tokens[:, :2], tokens[:, 2:] * there], 1))
    chosen = torch.cat([torch.arange(2).expand(3, -1), kept + 2], 1)
    conv.leave_only(chosen)
    at = chosen.unsqueeze(2).expand(-1, -1, 4)
    assert torch.allclose(conv(tokens.gather(1, at)), whole.gather(1, at), atol=1e-6)


def test_rotary_positions_stay_with_their_patches():
    torch.manual_seed(0)
    rotary, x, kept = laid_out(Rotary(8, 2, 100.0), 4), torch.randn(3, 18, 2, 8), _some(16, 3, 6)
    chosen = torch.cat([torch.arange(2).expand(3, -1), kept + 2], 1)
    at = chosen[:, :, None, None].expand(-1, -1, 2, 8)
    turned = rotary(x).gather(1, at)
    rotary.leave_only(chosen)
    assert torch.allclose(rotary(x.gather(1, at)), turned, atol=1e-6)
