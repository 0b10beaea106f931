"""Whatever stands in a score or a result of a study: it is compared, shown and summed up, or refused in a line."""

import copy
import json
from functools import cache, partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discli.ablation.plan import make_plan
from discli.ablation.report import study_csv, study_markdown, study_page, summarise
from discli.ablation.results import StudyReport
from discli.ablation.trial import read_result
from discli.recipe import load_study
from discli.reports.compare_scores import compare_files
from discli.runs.eval_result import read_eval_result
from discli.sampling.load import load
from discli.sampling.model_card import model_card
from tests.fuzz.damage import answer, damaged_json, examples
from tests.reports.test_compare_scores import SCORED
from tests.tiny_run import RECIPE

GOOD = json.dumps(SCORED).encode()
digits = cache(partial(load, "digits"))


@examples(100)
@given(st.data())
def test_any_scores(tmp_path, data):
    good, other = tmp_path / "good.json", tmp_path / "other.json"
    good.write_bytes(GOOD)
    other.write_bytes(data.draw(damaged_json(GOOD)))
    before = other.read_bytes()
    for pair in ((good, other), (other, good), (other, other)):
        answer(lambda pair=pair: compare_files(*pair).lines())
    score = answer(lambda: read_eval_result(other))
    if score is not None:
        assert model_card(digits(), [score])
    assert other.read_bytes() == before


STUDY = """
name = "s"
base = "tiny.toml"
seeds = [0, 1]
budget.steps = 3
axes.model.skip = ["concat", "none"]
score = { features = "random", n = 8, curve_points = 1, curve_n = 8 }
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of four trials, and what a finished one's result looks like."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "study.toml").write_text(STUDY)
    loaded, trials = load_study(folder / "study.toml")
    return loaded, make_plan(loaded, trials, folder / "out")


def result_of(planned) -> dict:
    scored = copy.deepcopy(SCORED)
    scored["samples"]["n"] = 8
    return {
        "trial": planned.trial.name, "point": planned.trial.point.name, "seed": planned.trial.seed.model_dump(),
        "settings": planned.trial.point.settings, "recipe": planned.recipe.model_dump(mode="json"), "contract": {},
        **planned.costs.model_dump(), "loss": 1.0, "seconds": 2.0, "images_per_second": 3.0, "peak_memory": 10**9,
        "score": 3.0, "score_name": "FID", "curve": [{"step": 3, "score": 4.0, "n": 8}], "eval": scored,
        "environment": {"torch": "2", "device": "cpu"},
    }  # fmt: skip


@examples(40)
@given(st.data())
def test_any_result_of_a_trial(study, tmp_path, data):
    loaded, plan = study
    results = []
    for number, planned in enumerate(plan):
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        content = json.dumps(result_of(planned)).encode()
        (folder / "result.json").write_bytes(data.draw(damaged_json(content)) if number == 0 else content)
        found = answer(
            lambda planned=planned, folder=folder: read_result(loaded, planned.trial, planned.recipe, folder)
        )
        assert found is not None or number == 0
        results += [found] if found is not None else []
    report = StudyReport(
        name="s", base="tiny", budget="3 steps", seeds=(0, 1), trials=4, results=results,
        images={results[0].trial: tmp_path / "0" / "result.json"},
    )  # fmt: skip
    assert summarise(report).model_dump_json()
    assert study_page(report, {}, None)
    assert study_markdown(report, {}, False)
    assert study_csv(report)
