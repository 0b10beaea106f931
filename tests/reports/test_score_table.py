"""Scores in the terminal."""

import io

from rich.console import Console

from discli.cli.scores_table import print_scores
from discli.runs.eval_result import EvalResult
from tests.reports.test_compare_scores import changed


def shown(result, width=80):
    out = io.StringIO()
    told = EvalResult.model_validate(result | {"warnings": ["few samples"], "per_class": None})
    print_scores(told, Console(file=out, width=width))
    return out.getvalue()


def test_scores_come_with_interval_spread_and_all_they_depend_on():
    scores = {"FID": 3.0, "IS": 271.25, "IS std": 4.5}
    result = changed(scores=scores, samples__checkpoint="runs/a/1", samples__step=1000)
    result["reference"] |= {"kind": "data file", "resolution": [256, 256]}
    text = shown(result)
    assert "95% interval at n = 50,000  2.9 to 3.1" in text
    assert "extrapolated to infinite n  2.8" in text
    assert "271.25 ± 4.5" in text
    assert "IS std" not in text
    assert "few samples" in text
    joined = "".join(line.strip() for line in text.splitlines())
    assert "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2" in joined


def test_brackets_in_paths_are_shown_and_not_taken_for_colours():
    result = changed(samples__path="runs/[/x] [bold]", samples__checkpoint="c", samples__step=1)
    result["reference"] |= {"kind": "data file", "resolution": [8, 8]}
    assert "runs/[/x] [bold]" in shown(result, width=200)
