"""What a recipe takes, against published sizes, sums by hand, and what files and samplers then do."""

import json
import re
import subprocess
import sys

import pytest

from discli.cli.info import info
from discli.cost.describe import PAPER_GFLOPS, as_in_the_papers_table, recipe_facts
from discli.cost.flops import forward_flops
from discli.cost.hardware import Hardware
from discli.cost.memory import parameters_by_part
from discli.model import empty_network
from discli.recipe import parse_recipe
from discli.runtime.errors import DiscliError
from discli.training.timed_step import time_here

# Parameters and GFLOPs of 32 px RGB, p = 4, without classes, and of 32x32x4 latents, p = 2, 1000 classes.
TABLE = {
    "dis-s": ((28_457_168, 3.7), (29_132_752, 14.8)),
    "dis-b": ((119_139_168, 15.3), (121_163_552, 60.5)),
    "dis-m": ((229_390_176, 30.0), (231_414_560, 118.9)),
    "dis-l": ((404_026_464, 52.4), (407_249_952, 208.1)),
    "dis-h": ((900_558_432, 116.2), (906_966_560, 460.9)),
}
HERE = Hardware.of(device="cpu")


TINY = {"embed_dim": 32, "depth": 5, "num_classes": 4}


def _tiny(model=TINY, **train):
    tree = {"name": "t", "model": {"num_classes": 4, **model}, "data": {"resolution": 8}}
    tree |= {"train": {"steps": 100, **train}}
    return parse_recipe(tree | {"sample": {"steps": 10, "cfg_scale": 1.5}}, "t")


@pytest.mark.parametrize("preset", TABLE)
def test_the_five_sizes(preset):
    for recipe, (count, gflops) in zip((as_in_the_papers_table(preset), _latents(preset)), TABLE[preset], strict=True):
        assert sum(parameters_by_part(empty_network(recipe)).values()) == count
        assert sum(forward_flops(recipe).values()) / 1e9 == pytest.approx(gflops, rel=0.01)


def _latents(preset):
    model = {"preset": preset, "num_classes": 1000}
    tree = {"name": "t", "model": model, "data": {"resolution": 256, "codec": "vae"}, "train": {"steps": 1}}
    return parse_recipe(tree, "t")


@pytest.mark.parametrize(("preset", "gflops"), PAPER_GFLOPS.items())
def test_the_papers_count_is_ours_without_the_mixers(preset, gflops):
    flops = forward_flops(as_in_the_papers_table(preset))
    around = [flops[part] for part in ("patch embedding", "time embedding", "long skips", "head")]
    assert sum(around) / 1e9 == pytest.approx(gflops, rel=0.005)
    assert 7.5 < sum(flops.values()) / 1e9 / gflops < 9


def test_one_of_the_papers_networks_has_everything_said_of_it():
    facts = recipe_facts(_latents("dis-s"), HERE)
    record = facts.record
    assert record["parameters"]["total"] == sum(record["parameters"]["by_part"].values()) == 29_132_752
    assert record["flops"]["training"] == 3 * sum(record["flops"]["forward_by_part"].values())
    assert record["tokens"] == 258
    assert (record["paper"]["gflops"], round(record["paper"]["ours_there"], 2)) == (0.43, 3.73)
    shown = dict(facts.rows)
    assert shown["parameters"] == "29,132,752"
    assert shown["in the paper"].startswith("0.43 GFLOPs for DiS-S on 32 px images, p = 4, where discli counts 3.73")
    json.dumps(record)


def test_the_papers_count_stands_beside_its_own_networks_only():
    model = {"preset": "dis-s", "depth": 3, "embed_dim": 32}
    assert recipe_facts(_tiny(model=model), HERE).record["paper"] is None
    assert recipe_facts(_tiny(), HERE).record["paper"] is None


@pytest.mark.parametrize("mixer", ["mamba2", "mamba3", "hydra", "attention"])
def test_other_mixers_are_counted_as_well(mixer):
    memory = recipe_facts(_tiny(model={**TINY, "mixer": mixer}), HERE).record["memory"]
    assert memory["scan"] == "torch"
    assert memory["activations"]["plain"]["per_image"] > memory["activations"]["checkpointed"]["per_image"] > 0


def test_time_follows_from_the_assumption_and_says_so():
    machine = Hardware.of("A100", gpus=4, utilisation=0.25)
    facts = recipe_facts(_tiny(batch_size=64), machine)
    run, flops = facts.record["run"], facts.record["flops"]
    assert run["images"] == 6400
    assert run["flops"] == 6400 * 3 * flops["forward"]
    seconds = run["flops"] / (4 * 312e12 * 0.25)
    assert run["times"] == [
        {"utilisation": 0.25, "seconds": pytest.approx(seconds), "images_per_second": pytest.approx(6400 / seconds)}
    ]
    assert facts.record["memory"]["images_at_once"] == 16
    assert "not a measurement" in dict(facts.rows)["time"]


def test_no_time_without_a_peak():
    facts = recipe_facts(_tiny(), HERE)
    assert facts.record["run"]["times"] is None
    assert "--gpu" in dict(facts.rows)["time"]
    without_bf16 = recipe_facts(_tiny(precision="bf16"), Hardware.of("V100"))
    assert dict(without_bf16.rows)["time"].startswith("V100 has no known peak in bf16")


def test_a_gpu_without_bf16_is_planned_in_the_float32_that_training_would_take():
    record = recipe_facts(_tiny(), Hardware.of("V100")).record
    assert record["memory"]["precision"] == "fp32"
    assert record["run"]["peak_flops"] == 15.7e12


@pytest.mark.slow
def test_a_gpu_is_planned_for_where_triton_is_not_installed():
    """As on a Mac. In a process of its own: here it may be imported already."""
    program = """
import json, sys
sys.modules["triton"] = None
from discli.cli.info import info
info("quickstart", gpu="A100", as_json=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory"]
    assert memory["scan"] == "cuda"
    assert memory["activations"]["plain"]["per_image"] > 0


def test_large_numbers_are_written_out():
    rows = recipe_facts(_tiny(steps=10**6), Hardware.of("H100", gpus=16)).rows
    text = " ".join(text for _, text in rows)
    assert "15,824 TFLOP/s" in text
    assert not re.search(r"\de[+-]?\d", text)


def test_memory_is_divided_where_it_is_sharded():
    plain, sharded = (
        recipe_facts(_tiny(parallel=how), Hardware.of("A100", gpus=4)).record["memory"]["state"]
        for how in ("ddp", "fsdp2")
    )
    assert plain == 4 * sharded


def test_sampling_counts_network_calls_with_guidance():
    sampling = recipe_facts(_tiny(), HERE).record["sampling"]
    assert sampling["evaluations"] == 20
    assert sampling["flops"] == 20 * sum(forward_flops(_tiny()).values())


def test_the_command_takes_a_shipped_name_and_overrides(capsys):
    info("quickstart", overrides=["train.steps=10"], as_json=True)
    record = json.loads(capsys.readouterr().out)
    assert (record["kind"], record["name"], record["run"]["images"]) == ("recipe", "quickstart", 640)
    assert record["here"]["seconds"] >= 10 * record["here"]["seconds_per_step"] > 0
    assert record["settings"]["train"]["steps"] == 10
    assert record["memory"]["scan"] == "cpu"


def test_a_recipe_names_the_data_file_that_train_would_take(digits_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["model.num_classes=10", "train.steps=10", "train.batch_size=40"]
    info("quickstart", overrides=settings, as_json=True)
    assert json.loads(capsys.readouterr().out)["data"] is None
    (tmp_path / "digits.h5").write_bytes(digits_file.read_bytes())
    info("quickstart", overrides=settings, as_json=True)
    assert json.loads(capsys.readouterr().out)["data"] == {"file": "digits.h5", "images": 200, "epochs": 2.0}
    info("quickstart", overrides=["model.num_classes=7", *settings[1:]])
    assert "10 classes" in capsys.readouterr().out
    info("quickstart", overrides=["model.num_classes=7", 'data.file="digits.h5"'], as_json=True)
    assert json.loads(capsys.readouterr().out)["data"] is None


def test_with_the_data_it_says_how_often_each_image_is_seen(digits_file, capsys):
    info("quickstart", data=digits_file, overrides=["train.steps=10"], as_json=True)
    assert json.loads(capsys.readouterr().out)["data"]["epochs"] == 640 / 200
    info("quickstart", data=digits_file, overrides=["train.steps=10", "data.holdout=0.1"], as_json=True)
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["images"] < 200, "held-out images are not trained on"
    assert data["epochs"] == 640 / data["images"]
    info("quickstart", data=digits_file, overrides=["data.holdout=0.0001"])
    assert "leaves 0 of 200 samples" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(DiscliError, match="num_classes"):
        info("quickstart", data=digits_file, overrides=["model.num_classes=3"])


def test_of_a_machine_elsewhere_nothing_is_tried():
    assert time_here(_tiny(), Hardware.of("A100")).record == {"here": {"seconds": None}}
