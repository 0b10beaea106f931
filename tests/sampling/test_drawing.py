"""What the page draws is what ``discli sample`` draws, and what it refuses is refused as on the command line."""

import json
import shlex
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import discli
from discli.cli import app
from discli.runtime.errors import DiscliError
from discli.sampling.drawing import MOST_IMAGES, MOST_STEPS, Drawn, Easel, Form, Progress, Ticket
from discli.sampling.plan import plan_sampling


@pytest.fixture(scope="module")
def easel(tiny_run) -> Easel:
    return Easel(discli.load(tiny_run, device="cpu"), str(tiny_run))


def _drawn(easel: Easel, form: Form, folder: Path) -> tuple[list[Progress], Drawn]:
    *steps, drawn = easel.draw(form, folder)
    return steps, drawn


def _contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    "form",
    [Form(), Form(n=6.0, seed="18446744073709551615", classes="3", cfg_scale=2.5, steps=3.0, sampler="ddim")],
)
def test_the_archive_is_what_the_shown_command_writes(easel, form, tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()
    _, drawn = _drawn(easel, form, tmp_path / "page")
    with zipfile.ZipFile(drawn.archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    (tmp_path / "line").mkdir()
    monkeypatch.chdir(tmp_path / "line")
    program, *words = shlex.split(easel.command(form))
    assert program == "discli"
    app([*words], standalone_mode=False)
    page, line = _contents(tmp_path / "unpacked"), _contents(tmp_path / "line")
    assert page == line
    assert drawn.sheet.read_bytes() == line["samples.png"]
    assert drawn.strip.read_bytes() == line["samples.steps.png"]
    assert json.loads(page["samples/manifest.json"])["finished"]


def test_every_step_is_news(easel, tmp_path):
    steps, _ = _drawn(easel, Form(n="5", steps="3"), tmp_path)
    assert [(one.done, one.total, one.images) for one in steps] == [(k, 6, 5) for k in range(1, 7)]  # two groups of 4
    assert steps[0].rate == 0
    assert steps[-1].rate > 0
    assert steps[-1].left == 0


def test_the_form_is_filled_in_as_the_model_has_it(easel):
    given = easel.defaults
    assert (given.n, given.steps, given.cfg_scale, given.sampler, given.seed) == (4, 5, 1.5, "ddpm", "0")
    assert [value for _, value in easel.classes] == ["random", "balanced", *map(str, range(10))]
    assert "euler" in easel.samplers
    assert "euler-maruyama" not in easel.samplers  # of flow


def test_classes_of_one_name_are_told_apart(easel):
    names = ("crane", "tench, Tinca tinca", "crane", "1", *"efghij")
    model = replace(easel.model, contract=easel.model.contract.model_copy(update={"class_names": names}))
    asked = dict(enumerate(value for _, value in Easel(model, "x").classes[2:]))
    assert [plan_sampling(model, classes=value).classes for value in asked.values()] == [(k,) for k in range(10)]
    assert asked[2] == "2"


@pytest.mark.parametrize(
    ("form", "key"),
    [
        (Form(seed="seven"), "--seed seven"),
        (Form(seed="-1"), "seed -1"),
        (Form(steps=0.0), "sample.steps"),
        (Form(steps=2.5), "--steps 2.5"),
        (Form(steps=float(MOST_STEPS + 1)), str(MOST_STEPS)),
        (Form(n=0.0), "-n 0"),
        (Form(n=float(MOST_IMAGES + 1)), str(MOST_IMAGES)),
        (Form(n=float("inf")), "-n inf"),
        (Form(cfg_scale=-1.0), "sample.cfg_scale"),
        (Form(cfg_scale="much"), "--cfg-scale much"),
        (Form(cfg_scale=float("nan")), "sample.cfg_scale"),
        (Form(classes="eleven"), "--classes eleven"),
        (Form(sampler="euler-maruyama"), "euler-maruyama"),
    ],
)
def test_a_form_that_cannot_be_drawn_is_refused_before_the_first_step(easel, form, key, tmp_path):
    with pytest.raises(DiscliError) as caught:
        next(easel.draw(form, tmp_path))
    assert key in caught.value.message
    assert caught.value.hint
    assert not any(tmp_path.iterdir())
    assert not easel.busy


def test_what_is_left_half_way_is_not_busy(easel, tmp_path):
    drawing = easel.draw(Form(), tmp_path)
    next(drawing)
    assert easel.busy
    drawing.close()
    assert not easel.busy


def test_at_closing_a_drawing_ends_after_its_step(easel, tmp_path):
    mine = Easel(easel.model, "x")
    drawing = mine.draw(Form(n=64), tmp_path)
    next(drawing)
    mine.closing.set()
    assert list(drawing) == []
    assert not mine.busy


def test_a_drawing_that_is_stopped_ends_after_its_step_and_says_so_itself(easel, tmp_path):
    ticket = Ticket()
    assert ticket.begin()
    drawing = easel.draw(Form(n=64), tmp_path, ticket)
    next(drawing)
    assert not ticket.stop()
    assert list(drawing) == []
    assert not easel.busy


def test_one_that_is_stopped_while_it_waits_never_begins():
    ticket = Ticket()
    assert ticket.stop()
    assert not ticket.begin()
    assert ticket.stop()


def test_the_shown_command_has_every_digit(easel):
    words = shlex.split(easel.command(Form(n=1e6, cfg_scale=1.2345678)))
    assert (words[words.index("-n") + 1], words[words.index("--cfg-scale") + 1]) == ("1000000", "1.2345678")
