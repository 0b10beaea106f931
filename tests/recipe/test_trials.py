"""Studies: which trials a file stands for, what a budget gives each of them, and what is refused."""

import pytest

from discli.recipe import load_study, shipped_studies
from discli.runtime.errors import DiscliError

BASE = """
name = "base"
[model]
embed_dim = 16
depth = 3
[data]
resolution = 16
[train]
steps = 7
batch_size = 8
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)

    def load(text):
        (tmp_path / "study.toml").write_text('name = "s"\nbase = "base.toml"\n' + text)
        return load_study(tmp_path / "study.toml")

    return load


@pytest.mark.parametrize(
    ("score", "along_the_way"),
    [("", 2_000), ("n = 5_000", 2_000), ("n = 48", 48), ("n = 48\ncurve_n = 96", 96), ("curve_n = 96", 96)],
)
def test_scores_along_the_way_take_no_more_samples_than_the_last(study, score, along_the_way):
    found, _ = study(f"budget.steps = 2\n[axes]\nmodel.patch_size = [2]\n[score]\n{score}")
    assert found.score.curve_n == along_the_way


def test_axes_are_a_product_and_every_seed_repeats_it(study):
    _, trials = study(
        'seeds = [3, 5]\nbudget.steps = 2\n[axes]\nmodel.patch_size = [2, 4]\nmodel.skip = ["add", {name = "none"}]'
    )
    assert [trial.name for trial in trials] == [
        f"patch_size={p},skip={skip}/seed-{seed}" for p in (2, 4) for skip in ("add", "none") for seed in (3, 5)
    ]
    recipe = trials[-1].recipe(steps=9)
    assert (recipe.model.patch_size, recipe.model.skip.name, recipe.train.seed.init, recipe.train.steps) == (
        4,
        "none",
        5,
        9,
    )
    assert recipe.train.batch_size == 8


def test_seeds_of_each_source_are_crossed_and_equal_ones_are_the_plain_seed(study):
    _, trials = study("seeds = { init = 2, noise = 2, sampling = 3 }\nbudget.steps = 2")
    names = ["seed-0", "init-0,order-0,noise-1", "init-1,order-0,noise-0", "init-1,order-0,noise-1"]
    assert [trial.name for trial in trials] == [f"base/{name}" for name in names]
    assert [trial.recipe(2).train.seed for trial in trials] == [trial.seed for trial in trials]


def test_lists_of_mixers_are_values_with_names_of_their_own(study):
    _, trials = study(
        "seeds = [0]\nbudget.steps = 2\n[set]\nmodel.depth = 3\n[axes]\n"
        'model.mixer = ["mamba", ["mamba", "attention"], [{name = "mamba2", chunk = 8}, "dit"]]'
    )
    names = ["mixer=mamba", "mixer=mamba+attention", "mixer=mamba2,chunk=8+dit"]
    assert [trial.name for trial in trials] == [f"{name}/seed-0" for name in names]
    assert [mixer.name for mixer in trials[-1].recipe(2).model.mixers] == ["mamba2", "dit"]


def test_points_are_settings_of_their_own_and_may_be_named(study):
    _, trials = study(
        "seeds = [0]\nbudget.steps = 2\n[set]\ntrain.lr = 1e-2\n"
        '[[points]]\nname = "wide"\nmodel = {embed_dim = 32, depth = 1}\n[[points]]\nmodel.depth = 5'
    )
    assert [trial.name for trial in trials] == ["wide/seed-0", "depth=5/seed-0"]
    assert trials[0].point.settings == {"model.embed_dim": 32, "model.depth": 1}
    assert {trial.recipe(1).train.lr for trial in trials} == {1e-2}


def test_points_and_axes_together(study):
    _, trials = study(
        'seeds = [0]\nbudget.steps = 2\n[axes]\nmodel.patch_size = [2, 4]\n[[points]]\nname = "a"\nmodel.depth = 1'
    )
    assert [trial.point.name for trial in trials] == ["a,patch_size=2", "a,patch_size=4"]


def test_keys_that_end_alike_are_told_apart_in_names(study):
    _, trials = study(
        'seeds = [0]\nbudget.steps = 2\n[axes]\ntrain.precision = ["fp32"]\nsample.precision = ["fp32", "bf16"]'
    )
    assert [trial.point.name for trial in trials] == [
        f"train.precision=fp32,sample.precision={value}" for value in ("fp32", "bf16")
    ]


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ("steps = 5", {2: 5, 4: 5}),
        ("images = 80", {2: 10, 4: 10}),
        ("tokens = 5120", {2: 10, 4: 40}),  # 64 and 16 patches, batches of 8
        ("flops = 8e9", {2: 10, 4: 20}),  # at 1e8 and 5e7 an image
    ],
)
def test_a_budget_is_the_same_for_all_and_the_steps_follow(study, budget, steps):
    found, trials = study(f"seeds = [0]\nbudget.{budget}\n[axes]\nmodel.patch_size = [2, 4]")
    costs = {2: 1e8, 4: 5e7}
    recipes = [trial.recipe(1) for trial in trials]
    assert {r.model.patch_size: found.budget.steps_of(r, costs[r.model.patch_size]) for r in recipes} == steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget.steps = 1", "nothing varies"),
        ("budget = {}\n[axes]\nmodel.depth = [1]", "exactly one"),
        ("budget = {steps = 1, images = 2}\n[axes]\nmodel.depth = [1]", "exactly one"),
        ("budget.steps = 1\n[axes]\nmodel.depth = 3", "axes.model.depth must be a list"),
        ("budget.steps = 1\nseeds = { sampling = 4 }", "seeds: give one of init, order and noise two seeds"),
        ("budget.steps = 1\nseeds = { init = 2, data = 2 }", "seeds.data: unknown key"),
        ("budget.steps = 1\nseeds = [-1]", "seeds.0: found -1"),
        ('budget.steps = 1\nseeds = { init = 2, sampling = 2 }\nscore.by = "loss gap"', "seeds.sampling has no effect"),
        ("budget.steps = 1\nseeds = [1, 1]\n[axes]\nmodel.depth = [1]", "seeds must differ"),
        ("budget.steps = 1\nbudgte = 2\n[axes]\nmodel.depth = [1]", "Did you mean budget?"),
        ("budget.steps = 1\n[score]\nn = 1\n[axes]\nmodel.depth = [1]", "score.n"),
        (
            'budget.steps = 1\n[[points]]\nname = "a"\n[[points]]\nname = "a"\nmodel.depth = 1',
            "two points are called a",
        ),
        ("budget.steps = 1\n[axes]\nmodel.depth = [1, 1]", "two points are called depth=1"),
        ('budget.steps = 1\nbaseline = "depth=3"\n[axes]\nmodel.depth = [1, 2]', "baseline = 'depth=3' is none of"),
        ("budget.steps = 1\n[[points]]\nreported = 3\nmodel.depth = 1", "reported of one of points must be text"),
        ("budget.steps = 1\n[axes]\ntrain.seed = [1, 2]", "axes.train.seed would have no effect: seeds decides it"),
        ("budget.steps = 1\n[[points]]\ntrain.steps = 5", "points.train.steps would have no effect: budget"),
        ("budget.steps = 1\n[set]\ntrain.score.n = 5\n[axes]\nmodel.depth = [1]", "score.curve_n decides it"),
        ("budget.steps = 1\n[axes]\ndata.file = ['" + 250 * "x" + "']", "too long for a folder's name"),
    ],
)
def test_mistakes_are_one_line(study, text, says):
    with pytest.raises(DiscliError) as caught:
        study(text)
    assert says in str(caught.value)
    assert "\n" not in caught.value.message


def test_what_was_reported_elsewhere_is_no_setting_and_no_part_of_the_name(study):
    found, trials = study(
        'seeds = [0]\nbudget.steps = 1\nbaseline = "base"\n[[points]]\nname = "base"\n'
        '[[points]]\nreported = "FID 9"\nmodel.depth = 5\n'
    )
    assert found.baseline == "base"
    assert [(trial.point.name, trial.point.reported) for trial in trials] == [("base", ""), ("depth=5", "FID 9")]
    assert trials[1].point.settings == {"model.depth": 5}


def test_a_trial_that_is_no_recipe_is_named(study):
    _, trials = study("seeds = [0]\nbudget.steps = 1\n[axes]\nmodel.patch_size = [3]")
    with pytest.raises(DiscliError, match=r"patch_size=3/seed-0: .*multiple of 3"):
        trials[0].recipe(1)


def test_every_paper_study_has_a_small_twin_and_loads():
    studies = shipped_studies()
    assert {"patch-size", "skip", "conditioning", "scaling"} <= studies.keys()
    for name in studies:
        study, trials = load_study(name)
        assert study.name == name
        assert f"{name.removesuffix('-small')}-small" in studies
        for trial in trials:
            assert trial.recipe(10).train.seed == trial.seed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('points = [{ name = "../../elsewhere", train.lr = 1 }]', "the name of one of points"),
        ("axes = { " + ", ".join(f"x{n} = [1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(12)) + " }", "the most that"),
        ("axes.x = [1]\nbudget.flops = inf", "budget.flops: found inf"),
    ],
)
def test_a_study_stays_in_its_folder_and_within_reason(study, text, says):
    with pytest.raises(DiscliError, match=says):
        study(text if "budget" in text else "budget.steps = 1\n" + text)


def test_dates_and_odd_keys_make_names_of_folders(study):
    _, trials = study('seeds = [0]\nbudget.steps = 1\naxes."a/./b" = [1979-05-27]')
    assert [trial.name for trial in trials] == ["_b=_1979-05-27_/seed-0"]
