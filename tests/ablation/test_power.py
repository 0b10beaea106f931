"""What a study's seeds can show, checked by simulation, and studies that are refused for being too small."""

import math

import numpy as np
import pytest

from discli.ablation.findings import in_words
from discli.ablation.plan import plan_study
from discli.ablation.power import check_power, plan_power
from discli.ablation.report import write_report
from discli.ablation.results import StudyReport
from discli.ablation.trial_result import TrialResult
from discli.recipe import load_study
from discli.recipe.study import SeedDesign
from discli.runtime.errors import DiscliError
from tests.ablation.test_report import result
from tests.tiny_run import RECIPE

STUDY = """
name = "s"
base = "tiny.toml"
seeds = {seeds}
budget.steps = 2
axes.model.skip = ["concat", "none"]
score = {{ features = "random", n = 8 }}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)

    def load(seeds, more=""):
        (tmp_path / "study.toml").write_text(STUDY.format(seeds=seeds) + more)
        return load_study(tmp_path / "study.toml")[0]

    return load


@pytest.mark.parametrize("seeds", ["[0, 1, 2, 3, 4, 5]", "{ init = 3, order = 3, noise = 3, sampling = 2 }"])
def test_the_difference_that_is_promised_is_found_as_often(study, seeds):
    """Two points' differences are drawn as the plan assumes them, and tested as the report does."""
    from discli.reports.chance import estimate
    from discli.reports.components import components

    planned = plan_power(study(seeds, "power = { difference = 0.05, cv = 0.02 }"))
    gap, generator, found = planned.least_difference, np.random.default_rng(0), 0
    own, of_sampling = 2 * 0.02**2 / (1 + 1 / 3.2**2) / 3, 2 * 0.02**2 / (1 + 3.2**2)
    for _ in range(repetitions := 100):
        if seeds.startswith("["):
            told = estimate(list(generator.normal(gap, planned.deviation, 6)))
        else:
            sizes = [(3, 1, 1, 1), (1, 3, 1, 1), (1, 1, 3, 1)]
            parts = sum(generator.normal(0, math.sqrt(own), size) for size in sizes)
            told = components(
                gap + parts + generator.normal(0, math.sqrt(of_sampling), (3, 3, 3, 2)), ["init", "order", "noise"]
            ).estimate
        found += told.low > 0
    assert 0.65 <= found / repetitions <= 0.95


def test_a_study_too_small_for_its_question_is_refused_with_the_size_that_would_do(study):
    small = study("[0, 1, 2]", "power = { difference = 0.02, cv = 0.015 }")
    with pytest.raises(DiscliError, match="too small") as caught:
        check_power(small)
    assert caught.value.status == 2
    needed = plan_power(small).seeds_needed
    assert f"[0, ..., {needed - 1}]" in caught.value.hint
    check_power(study(str([*range(needed)]), "power = { difference = 0.02, cv = 0.015 }"))
    with pytest.raises(DiscliError, match="too small"):
        check_power(study(str([*range(needed - 1)]), "power = { difference = 0.02, cv = 0.015 }"))


@pytest.mark.parametrize("seeds", ["{ init = 2, order = 2, noise = 2, sampling = 2 }", "{ init = 2, order = 3 }"])
def test_a_design_too_small_is_refused_with_the_design_that_would_do(study, tmp_path, seeds):
    power = "power = { difference = 0.03, cv = 0.015 }"
    study(seeds, power)
    with pytest.raises(DiscliError, match="too small") as caught:
        plan_study(tmp_path / "study.toml")
    proposed = caught.value.hint.partition("seeds = ")[2].partition(" or ")[0]
    check_power(study(proposed, power))


def test_a_dry_run_has_the_power_of_any_study(study, tmp_path):
    study("[0, 1, 2]")
    found = plan_study(tmp_path / "study.toml").power
    assert (found.networks, found.difference) == (3, None)
    assert 0.03 < found.least_difference < 0.2


def trials(spread, gap=1.0):
    """Of two points with seeds {init, noise}: scores and their seeds."""
    generator = np.random.default_rng(5)
    own = generator.normal(0, spread, (4, 1)) + generator.normal(0, 0.1, (4, 4))
    for point, shift in (("concat", 0.0), ("none", gap)):
        shifted = 20 + shift + own + generator.normal(0, 0.05, (4, 4))
        for (init, noise), score in np.ndenumerate(shifted):
            made = result(point, 0, float(score))
            seed = {"init": init, "order": 0, "noise": noise}
            yield made | {"seed": seed, "trial": f"{point}/{init}-{noise}", "by_sampling": [score, score + 0.01]}


def test_the_report_tells_where_the_spread_comes_from_and_pairs_what_is_crossed(tmp_path):
    design = SeedDesign(init=4, noise=4, sampling=2)
    read = [TrialResult.model_validate(each) for each in trials(spread=2.0, gap=0.5)]
    report = StudyReport("s", "base", "10 steps", design.trainings(), len(read), read, design=design)
    write_report(report, tmp_path)
    written = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert all("one more seed costs" in text and "16 sets of samples" in text for text in written)
    assert (tmp_path / "spread.png").exists()
    assert (tmp_path / "scores-by-seed.png").exists()
    assert all("4 networks: 8 s + 0 s" in text for text in written)
    assert "% of the score (" in written[0]
    lines = list(in_words(report))
    assert "of the spread, 9" in lines[0]  # 90-odd per cent
    assert "is initialisation" in lines[0].partition("of the spread, ")[2].partition(",")[0]
    assert any(line.startswith("concat scores better (lower) than none by 0.") for line in lines)
    fewer = StudyReport("s", "base", "10 steps", design.trainings(), len(read), read[:-1], design=design)
    assert any("15 of 16 networks" in line for line in in_words(fewer))


def test_what_chance_would_do_is_said_with_the_seeds_that_would_show_it():
    scores = {"a": [5.0, 6.0, 7.0], "b": [7.5, 6.0, 7.9]}
    read = [TrialResult.model_validate(result(p, s, score)) for p, row in scores.items() for s, score in enumerate(row)]
    [line] = in_words(StudyReport("s", "base", "10 steps", (0, 1, 2), 6, read))
    assert "cannot be told; about 12 seeds would show it" in line


def test_power_is_learned_from_an_earlier_study(study, tmp_path):
    for number, made in enumerate(trials(spread=2.0)):
        folder = tmp_path / "before" / "trials" / str(number)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(TrialResult.model_validate(made).model_dump_json(by_alias=True))
    asked = f'power = {{ difference = 0.02, earlier = "{tmp_path / "before"}" }}'
    found = plan_power(study("{ init = 3, noise = 3, sampling = 2 }", asked))
    assert found.deviation == pytest.approx(math.sqrt(2) * 0.05 / 20, rel=0.4)  # what pairing leaves
    beside = asked.replace(f"{tmp_path}/", "")
    assert plan_power(study("{ init = 3, noise = 3, sampling = 2 }", beside)).deviation == found.deviation
    with pytest.raises(DiscliError, match=r"power\.earlier"):
        plan_power(study("[0, 1]", 'power = { difference = 0.02, earlier = "nowhere" }'))

    def rewrite(**changes):
        for path in (tmp_path / "before").rglob("result.json"):
            made = TrialResult.model_validate_json(path.read_text()).model_copy(update=changes)
            path.write_text(made.model_dump_json(by_alias=True))

    rewrite(score=0.0, by_sampling=(0.0, 0.0))
    with pytest.raises(DiscliError, match="all scores"):
        plan_power(study("{ init = 3, noise = 3, sampling = 2 }", asked))
    rewrite(score_name="loss gap")
    with pytest.raises(DiscliError, match="scored by loss gap, this study is by distance"):
        plan_power(study("{ init = 3, noise = 3, sampling = 2 }", asked))
