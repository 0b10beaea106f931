"""Why two scores differ, in words."""

import copy
import json

import pytest

from discli.reports.compare_scores import compare_files, compare_scores
from discli.runs.eval_result import EvalResult
from discli.runtime.errors import DiscliError
from tests.cli.commands import discli

SCORED = {
    "features": "inception",
    "distance": 3.0,
    "scores": {"FID": 3.0},
    "effect_of_n": {"n": 50_000, "low": 2.9, "high": 3.1, "infinity": 2.8, "level": 0.95},
    "convention": {"name": "adm", "resize": "bilinear"},
    "network": "Inception",
    "weights_sha256": "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "samples": {
        "path": "samples",
        "kind": "samples",
        "n": 50_000,
        "resolution": [256, 256],
        "sampler": {"name": "ddim", "eta": 0.0},
        "steps": 250,
        "nfe": 500,
        "cfg_scale": 1.5,
        "guidance": {"name": "classifier-free"},
        "cfg_schedule": {"name": "constant"},
        "cfg_interval": "everywhere",
        "class_choice": "random",
        "begins_with": "noise alone",
        "ema": {"name": "constant", "decay": 0.9999},
        "precision": "fp32",
        "seed": 0,
    },
    "reference": {"path": "imagenet.h5", "sha256": "aa", "n": 1_281_167},
}


def changed(**changes):
    """SCORED with some fields replaced; a__b reaches into a."""
    result = copy.deepcopy(SCORED)
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = result
        for key in path:
            inner = inner[key]
        inner[last] = value
    return result


def explained(a, b):
    return compare_scores(EvalResult.model_validate(a), EvalResult.model_validate(b)).lines()


def words(other):
    return "\n".join(explained(SCORED, other))


def test_networks_of_two_precisions_are_not_comparable():
    assert "fp32 and bf16" in words(changed(precision="bf16"))


def test_equal_results_have_nothing_to_explain():
    assert "nothing that is known differs" in words(SCORED)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"features": "random"}, "features: inception and random"),
        ({"weights_sha256": "00" * 32}, "weights of the feature network: sha256 6726825d0af5 and 000000000000"),
        ({"convention": {"name": "clean-fid"}}, "adm and clean-fid resize differently"),
        ({"reference__sha256": "bb", "reference__n": None}, "imagenet.h5 (1,281,167) and imagenet.h5 (unknown n)"),
        ({"samples__resolution": [512, 512]}, "resolution: 256 px and 512 px"),
        ({"samples__resolution": [256, 384]}, "resolution: 256 px and 256x384 px"),
        ({"samples__begins_with": "3 given images"}, "the second samples begin with 3 given images"),
    ],
)
def test_what_forbids_comparing_is_said_first(changes, expected):
    lines = explained(SCORED, changed(**changes))
    assert lines[2] == "They cannot be compared:"
    assert expected in lines[3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"samples__n": 10_000}, "n: 50,000 and 10,000 samples; fewer samples score higher"),
        ({"samples__n": 10_000}, "Extrapolated to infinitely many: 2.8 and 2.8"),
        ({"samples__sampler": {"name": "ddpm"}}, "sampler: ddim, eta 0.0 and ddpm"),
        ({"samples__cfg_scale": 4.0}, "guidance: 1.5 and 4.0"),
        ({"samples__guidance": {"name": "autoguidance", "checkpoint": "weak"}}, "autoguidance, checkpoint weak"),
        ({"samples__cfg_schedule": {"name": "cosine"}}, "guidance over the steps: constant and cosine"),
        ({"samples__cfg_interval": "0.3 to 3"}, "noise levels that are guided: everywhere and 0.3 to 3"),
        ({"samples__class_choice": "balanced"}, "choice of classes: random and balanced"),
        ({"samples__nfe": 50}, "network calls per image: 500 and 50"),
        ({"samples__ema": {"name": "constant", "decay": 0.999}}, "EMA: decay 0.9999 and decay 0.999"),
        ({"samples__precision": "bf16"}, "precision: fp32 and bf16"),
        ({"samples__seed": 7}, "0 and 7"),
        ({"convention": {"name": "torch-fidelity"}}, "their FID is the same"),
        ({"samples": {k: SCORED["samples"][k] for k in ("path", "kind", "n", "resolution")}}, "nothing is known of"),
    ],
)
def test_what_explains_a_difference_is_named(changes, expected):
    said = words(changed(**changes))
    assert "They can be compared. What differs:" in said
    assert expected in said


def test_intervals_decide_whether_it_may_be_chance():
    near = changed(distance=3.05, scores={"FID": 3.05}, effect_of_n={**SCORED["effect_of_n"], "low": 3.0, "high": 3.2})
    far = changed(distance=4.0, scores={"FID": 4.0}, effect_of_n={**SCORED["effect_of_n"], "low": 3.8, "high": 4.2})
    assert "may be chance" in words(near)
    assert "more than sampling noise" in words(far)
    assert "no telling" in words(changed(distance=4.0, effect_of_n=None, scores={"FID": 4.0}))
    far["samples"]["n"] = 10_000
    assert "more than sampling noise" not in words(far)
    assert "cannot be told" in words(far)


def test_files_that_are_no_results_are_refused(tmp_path):
    for name, text in (("a.json", "{}"), ("b.json", "not json")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DiscliError, match=name):
            compare_files(tmp_path / name, tmp_path / name)
    (tmp_path / "c.json").write_text(json.dumps(SCORED))
    assert compare_files(tmp_path / "c.json", tmp_path / "c.json").scores[0].startswith("c.json: FID = 3 at n = 50,000")


def test_as_json_the_same_sentences(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(SCORED))
    (tmp_path / "b.json").write_text(json.dumps(changed(features="dinov2")))
    shown = [discli("compare", "a.json", "b.json", *flags, cwd=tmp_path).stdout for flags in ([], ["--json"])]
    found = json.loads(shown[1])
    assert found["forbids"]
    assert [line for lines in found.values() for line in lines if line not in shown[0]] == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"distance": 4.0}, ""),
        ({"samples__n": "many"}, "samples.n"),
        ({"samples__ema": {}}, "samples.ema.name"),
        ({"effect_of_n": {}}, "effect_of_n.n"),
        ({"scores": {"FID": "low"}}, "scores.FID"),
    ],
)
def test_a_damaged_score_is_refused_and_the_place_named(tmp_path, changes, where):
    (tmp_path / "a.json").write_text(json.dumps(changed(**changes)))
    with pytest.raises(DiscliError, match=f"is corrupt.*{where}"):
        compare_files(tmp_path / "a.json", tmp_path / "a.json")
