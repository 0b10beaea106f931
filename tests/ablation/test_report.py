"""A study's report: what it says in words follows from the figures, and every form holds the same ones."""

import csv
import io

import pytest
from PIL import Image

from discli.ablation.findings import in_words
from discli.ablation.report import study_csv, summarise, write_report
from discli.ablation.results import StudyReport
from discli.ablation.trial_result import TrialResult
from tests.browser import look


def result(point, seed, score, gflops=1.0):
    return {
        "trial": f"{point}/seed-{seed}", "point": point, "seed": seed, "settings": {"model.skip": point},
        "recipe": {"name": "r", "data": {"resolution": 4}, "diffusion": {"objective": {"name": "eps"}}},
        "parameters": 1000, "forward_gflops": gflops, "steps": 10, "images": 80, "training_tflops": 0.24,
        "loss": 0.5 + seed / 10, "seconds": 2.0, "images_per_second": 40.0, "peak_memory": 500_000_000,
        "score": score, "score_name": "FID",
        "curve": [{"step": 5, "score": 2 * score, "n": 8}, {"step": 10, "score": score, "n": 8}],
        "eval": {
            "samples": {
                "path": "run", "kind": "samples", "resolution": [4, 4], "n": 16, "sampler": {"name": "ddim"},
                "steps": 5, "nfe": 5, "cfg_scale": 1.0, "seed": 0,
            },
            "reference": {"path": "d.h5", "n": 100, "sha256": "abc"},
            "features": "inception", "network": "net", "weights_sha256": "def",
            "scores": {"FID": score}, "distance": score, "effect_of_n": None, "convention": None,
        },
        "environment": {"torch": "2", "device": "cpu"},
    }  # fmt: skip


def report(*results, failures=None, images=None, **more):
    seeds = sorted({r["seed"] for r in results})
    read = [TrialResult.model_validate(result) for result in results]
    return StudyReport("s", "base", "10 steps each", seeds, len(read), read, failures or {}, images or {}, **more)


SCORES = {"concat": [5.0, 6.0, 7.0], "add": [6.0, 7.1, 8.0], "none": [4.0, 9.0, 6.5]}
CLEAR = [result(point, seed, score) for point, scores in SCORES.items() for seed, score in enumerate(scores)]


def test_words_tell_differences_from_chance():
    lines = list(in_words(report(*CLEAR)))
    assert lines[0].startswith("concat scores better (lower) than add by 1.03 (95% interval 0.89 to 1.18, 3 seeds)")
    assert "no more than chance" in lines[1]
    assert "no more than chance" in lines[2]
    assert "3 comparisons" in lines[3]


def test_one_seed_claims_nothing():
    [line] = in_words(report(result("a", 0, 1.0), result("b", 0, 99.0)))
    assert "nothing can be told from chance" in line


def test_points_that_score_the_same_are_called_equal():
    [line] = in_words(report(*(result(point, seed, 1.0 + seed) for point in "ab" for seed in (0, 1))))
    assert line == "a and b score the same with each of 2 seeds."


def test_missing_seeds_are_said():
    lines = list(in_words(report(*CLEAR[:-1])))
    assert "Not all points have all seeds" in lines[-1]


def test_many_points_are_summed_up():
    points = [
        result(f"p{i}", seed, 10.0 + (i > 20) * 50 + seed + 0.1 * (seed - 1) * i)
        for i in range(40)
        for seed in range(3)
    ]
    lines = list(in_words(report(*points)))
    assert lines[0].startswith("p")
    assert lines[0].endswith("scores better (lower) than 19 of 39 other points.")
    assert lines[1].startswith("No more than chance would do sets it apart from p")
    assert lines[1].endswith("and 8 more.")
    assert "flatters it" in lines[3]
    assert len(lines) == 4


def test_one_seed_of_many_points_is_one_line():
    assert len(list(in_words(report(*(result(f"p{i}", 0, float(i)) for i in range(30)))))) == 1


def test_scores_against_other_data_are_not_compared_in_silence():
    other = result("b", 0, 1.0)
    other["eval"]["reference"] = {"path": "d.h5", "n": 100, "sha256": "another"}
    assert "2 different references" in " ".join(in_words(report(result("a", 0, 1.0), other)))


def test_scores_by_other_features_or_of_other_sizes_are_not_compared_in_silence():
    other = result("b", 0, 1.0)
    other["eval"] |= {"weights_sha256": "another"}
    other["eval"]["samples"] |= {"resolution": [8, 8]}
    lines = " ".join(in_words(report(result("a", 0, 1.0), other)))
    assert "2 different feature networks" in lines
    assert "2 different sizes" in lines


def test_a_report_says_every_way_that_samples_were_drawn(tmp_path):
    other = result("b", 0, 1.0)
    other["eval"]["samples"] |= {"steps": 9, "nfe": 18, "cfg_scale": 2.0}
    write_report(report(result("a", 0, 1.0), other), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "ddim, 5 steps, NFE 5, guidance 1.0; ddim, 9 steps, NFE 18, guidance 2.0; seed 0 in all trials" in text


def test_what_a_score_warned_of_is_said_once():
    results = [result("a", 0, 1.0), result("b", 0, 1.0)]
    for each in results:
        each["eval"]["warnings"] = ["16 samples in 2,048 feature dimensions"]
    assert list(in_words(report(*results)))[-1] == "16 samples in 2,048 feature dimensions"
    assert " ".join(in_words(report(*results))).count("16 samples") == 1


def test_every_point_is_told_apart_from_the_baseline(tmp_path):
    scores = {"base": [5.0, 6.0, 7.0], "better": [4.0, 4.9, 6.0], "worse": [6.1, 7.0, 8.0], "unclear": [4.0, 9.0, 6.5]}
    results = [result(point, seed, score) for point, found in scores.items() for seed, score in enumerate(found)]
    results += [result("same", seed, 5.0 + seed) for seed in range(3)] + [result("single", 0, 1.0)]
    for number, each in enumerate(results):
        each["held_out_loss"] = 0.2 + 0.01 * number
    results[3]["recipe"] = results[3]["recipe"] | {"diffusion": {"objective": {"name": "v"}}}  # the first of "better"
    made = report(*results, baseline="base", reported={"better": "FID 18 to 10"})
    found = {each.point: each for each in summarise(made).beside_baseline}
    told = {"better": "helps", "worse": "hurts", "unclear": "cannot be told", "same": "scores the same"}
    assert {point: each.verdict for point, each in found.items()} == told | {"single": "cannot be told"}
    assert found["better"].score.mean == pytest.approx(-1.0333, abs=1e-4)
    assert found["better"].held_out_loss is None  # of another objective
    assert found["worse"].held_out_loss.mean == pytest.approx(0.06)
    assert found["better"].recognised is None
    assert found["unclear"].seeds_needed > 3
    write_report(made, tmp_path)
    for form in ((tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()):
        assert "Each beside base" in form
        assert "-1.03 (-1.18 to -0.89)" in form
        assert "FID 18 to 10" in form
        assert "cannot be told: one seed" in form
        assert "recognised, points" not in form
    lines = " ".join(in_words(made))
    assert "Better (lower) scores than base by more than chance: better." in lines
    assert "No more than chance would do sets apart from base: unclear; single." in lines


def test_a_baseline_of_which_nothing_is_finished_leaves_the_ordinary_comparisons():
    made = report(*CLEAR, baseline="base")
    assert summarise(made).beside_baseline == []
    assert next(in_words(made)).startswith("concat scores better")


@pytest.mark.slow
def test_hundreds_of_points_make_a_report_in_reason(tmp_path):
    strip = tmp_path / "strip.png"
    Image.new("RGB", (12, 4)).save(strip)
    results = [result(f"p{i}", 0, 5.0 + i, gflops=1.0 + i) for i in range(150)]
    write_report(report(*results, images={r["trial"]: strip for r in results}), tmp_path)
    with Image.open(tmp_path / "images.png") as image:
        assert image.height < 8300
    assert "the first 125 of 150 points" in (tmp_path / "report.md").read_text()


def test_differences_in_cost_and_in_what_the_loss_means_are_said():
    other = result("b", 0, 1.0, gflops=4.0)
    other["recipe"]["diffusion"] = {"objective": {"name": "v"}}
    lines = " ".join(in_words(report(result("a", 0, 2.0), other)))
    assert "4 times the FLOPs" in lines
    assert "cannot be compared" in lines


def test_every_form_holds_the_figures(tmp_path):
    strip = tmp_path / "strip.png"
    Image.new("RGB", (12, 4), (200, 10, 30)).save(strip)
    made = report(
        *CLEAR, result("big", 0, 3.0, gflops=8.0), failures={"bad/seed-0": "it broke <here>"},
        images={"concat/seed-0": strip},
    )  # fmt: skip
    write_report(made, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    expected = {"report.html", "report.md", "trials.csv", "score-by-step.png", "score-by-gflops.png", "images.png"}
    assert names == expected | {"strip.png"}
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for form in (page, text):
        assert "6.0 ± 2.5" in form
        assert "it broke" in form
    assert "<here>" not in page
    assert page.count("<svg") == 2
    assert 'src="data:image/png' in page
    assert "://" not in page.replace("http://www.w3.org", "")
    rows = list(csv.DictReader(io.StringIO(study_csv(made))))
    assert [float(row["score"]) for row in rows] == [r.score for r in made.results]
    assert summarise(made).points[0].score.mean == pytest.approx(6.0)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_on_a_phone_and_asks_for_nothing(tmp_path, dark):
    results = [*CLEAR, result("<script>alert(1)</script>" * 4, 0, 3.0, gflops=8.0)]
    write_report(report(*results, failures={"bad/seed-0": "/a/long/path" * 20}), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    seen = look(text, tmp_path, 390, dark)
    assert seen.console == []
    assert seen.content <= seen.width <= 390


def test_nothing_finished_is_a_report_too(tmp_path):
    empty = StudyReport("s", "base", "10 steps each", [0], 2, [], {"a/seed-0": "why"})
    write_report(empty, tmp_path)
    assert "0 of 2 trials" in (tmp_path / "report.md").read_text()
    assert summarise(empty).points == []
