"""``discli report``: a page about a run, whatever state the run is in, and the page in a browser."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from discli.cli.report import report
from discli.data.contact_sheet import contact_sheet, save_image
from discli.reports.run import report_run
from discli.reports.run_page import choose_previews
from discli.runtime.errors import DiscliError
from tests.browser import look
from tests.reports.test_compare_scores import changed


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory) -> Path:
    """A run with all that there can be: previews, scores while training and after it, events, two sessions."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("reported") / "run"))
    noise = torch.Generator().manual_seed(0)
    (run / "previews").mkdir()
    for step in range(0, 31, 2):
        images = torch.randint(0, 256, (16, 3, 128, 128), generator=noise).to(torch.uint8)
        save_image(contact_sheet(images), run / "previews" / f"{step:08d}.png")
    logs = {
        "scores": [{"step": step, "FID": 100 / step, "n": 64, "sampling_steps": 5} for step in (10, 20, 30)],
        "events": [{"step": 7, "event": "skipped", "rollbacks": 0, "grad_norm": "inf", "indices": [5, 8]}],
    }
    for name, lines in logs.items():
        (run / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {"step": 0, "started": "2026-01-01T10:00:00+00:00", "device": "<GPU> & Co", "processes": 8}
    sessions = run / "sessions.jsonl"
    sessions.write_text(json.dumps(before) + "\n" + sessions.read_text())
    result = changed(samples__checkpoint="runs/a/1", samples__step=30, samples__path="a/very/long/" + 30 * "path/")
    result |= {"warnings": ["64 samples are few."], "per_class": None}
    result["reference"] |= {"kind": "data file", "resolution": [8, 8]}
    (run / "score.json").write_text(json.dumps(result))
    return run


@pytest.fixture(scope="module")
def text(run) -> str:
    return report_run(run).page.read_text()


def test_the_page_says_what_there_is_to_say(run, text):
    assert '<span class="state good">finished</span>' in text
    for heading in (
        "Curves",
        "Samples over time",
        "Scores in score.json",
        "Recipe",
        "Environment",
        "Sessions",
        "Events",
    ):
        assert f"<h2>{heading}</h2>" in text
    for name in ("Loss", "Loss by quarter of the timesteps", "Learning rate", "FID"):
        assert f"<figcaption>{name}</figcaption>" in text
    assert "<b>lr = 0.003</b>" in text
    assert re.search(r"(\n|</b>)seed = 0\n", text)
    assert "&lt;GPU&gt; &amp; Co" in text
    assert "gradient norm inf, 2 samples" in text
    assert "64 samples are few." in text
    assert "2026-01-01 10:00:00" in text


def test_the_page_is_one_file_and_not_a_large_one(text):
    assert "<script" not in text
    assert not re.search(r'(src|href|action)="(?!data:|#)', text)
    assert text.count("data:image/jpeg") == 8
    assert len(text) < 3_000_000


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_on_a_phone_and_asks_for_nothing(text, tmp_path, dark):
    seen = look(text, tmp_path, 390, dark)
    assert seen.console == []
    assert seen.broken == 0
    assert seen.content <= seen.width <= 390
    assert seen.scheme == ("dark" if dark else "light")


def test_the_browser_would_have_seen_a_bad_page(tmp_path):
    seen = look('<div style="width: 600px">.</div><img src="https://example.invalid/a.png">', tmp_path, 390)
    assert seen.content >= 600
    assert seen.broken == 1
    assert len(seen.console) == 1


def test_json_names_the_page_and_what_is_in_it(run, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    report(run, out=out, as_json=True)
    record = json.loads(capsys.readouterr().out)
    assert record["page"] == str(out)
    assert record["page_bytes"] == out.stat().st_size
    assert record["score_curves"] == {"FID": [[10, 10.0], [20, 5.0], [30, 100 / 30]]}
    assert len(record["previews"]) == 8
    assert "lr = 0.003" in record["chosen"]
    assert record["environment"]["torch"] == torch.__version__


@pytest.mark.parametrize("breakage", ["torn", "run.json", "nothing yet", "image"])
def test_a_run_that_is_not_whole_has_a_page_too(run, tmp_path, breakage):
    broken = Path(shutil.copytree(run, tmp_path / "run"))
    expected = "<h2>Curves</h2>"
    if breakage == "torn":
        with (broken / "metrics.jsonl").open("a") as log:
            log.write('{"step": 31, "lo')
        expected = "metrics.jsonl: 1 torn line left out"
    elif breakage == "run.json":
        (broken / "run.json").write_text("{")
        expected = "run.json is corrupt"
    elif breakage == "nothing yet":
        for path in broken.glob("*.jsonl"):
            path.unlink()
        shutil.rmtree(broken / "checkpoints")
        shutil.rmtree(broken / "previews")
        expected = "Nothing is logged yet."
    else:
        (broken / "previews" / "00000030.png").write_bytes(b"\x89PNG")
        expected = "<figcaption>step 26</figcaption>"
    assert expected in report_run(broken).page.read_text()


def test_what_is_no_run_and_what_cannot_be_written_is_one_line(run, tmp_path):
    with pytest.raises(DiscliError, match="is not a run"):
        report_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DiscliError, match="cannot be written"):
        report_run(run, out=tmp_path / "file" / "page.html")


def test_previews_are_chosen_evenly_by_step():
    every = [Path(f"{step:08d}.png") for step in [*range(0, 100, 10), 1000]]
    assert [int(path.stem) for path in choose_previews(every, 3)] == [0, 90, 1000]
    assert choose_previews(every[:3]) == every[:3]
    evenly = choose_previews([Path(f"{step}.png") for step in range(0, 1500, 100)])
    assert [int(path.stem) for path in evenly] == [0, 200, 400, 600, 800, 1000, 1200, 1400]
