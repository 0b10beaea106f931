"""What a run says that it will take, against what it then takes."""

from discli.cost.disk import describe_needs, disk_needed
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.runs.checkpoint import write_checkpoint, write_snapshot
from discli.training.ema import build_ema
from discli.training.optimizers import build_optimizer


def _recipe(**train):
    model = {"embed_dim": 64, "depth": 3}
    return parse_recipe({"name": "t", "model": model, "data": {"resolution": 8}, "train": {"steps": 40, **train}}, "t")


def test_the_disk_estimate_is_what_files_take(tmp_path):
    recipe = _recipe(keep_last=1, keep_every=20, ema={"name": "power", "stds": [0.05, 0.1], "snapshot_every": 10})
    model = DiS.from_recipe(recipe)
    optimizer = build_optimizer(model, recipe.train)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    ema = build_ema(recipe.train.ema, model)
    files = {"model": dict(model.named_parameters()), "optimizer": optimizer.tensors(), **ema.averages}
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, step, files, {}, {})
        write_snapshot(tmp_path, step, ema.averages, [0.05, 0.1], {})

    taken = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    count = sum(parameter.numel() for parameter in model.parameters())
    checkpoint, in_all = disk_needed(recipe.train, count, len(ema.averages), count)
    # Two kept for good, the last one and the one being written: four at once. Headers are a few kB.
    assert in_all == 4 * checkpoint + 8 * 2 * count
    assert 0.9 * taken < in_all < taken


def test_a_disk_that_will_not_do_is_said_at_once(tmp_path):
    assert "not enough" not in describe_needs(_recipe().train, 10_000, 1, 10_000, 1, tmp_path)
    assert "not enough for the whole run" in describe_needs(_recipe().train, 10**15, 1, 10**15, 1, tmp_path)
