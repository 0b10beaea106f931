"""Models by name: put into a folder, found, listed, loaded, exported; which of several is meant; damage."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import discli
from discli.cli import app
from discli.doctor import weights
from discli.doctor.finding import CheckContext
from discli.evaluation.features.cifar10 import WEIGHTS, read_classifier
from discli.evaluation.images import open_images
from discli.evaluation.neighbours import Real, _rows
from discli.runs.box import BOX, VARIABLE
from discli.runs.description import Began
from discli.runs.layout import find_run
from discli.runs.models import card_file, is_as_published, list_models, read_card
from discli.runtime.errors import DiscliError
from discli.sampling.export import export_diffusers, export_model
from tests.sampling.test_export import SCORE

DRAWS, TERMS = "handwritten digits", "UCI digits, CC BY 4.0"


@pytest.fixture
def command(capsys):
    """A command line in this process: what it prints on stdout and stderr."""

    def run(*words: str) -> tuple[str, str]:
        app([*words], prog_name="discli", standalone_mode=False)
        return capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    samples = SCORE["samples"] | {"path": "/home/me/samples", "run": "/home/me/runs/tiny"}
    samples["guidance"] = {"name": "autoguidance", "checkpoint": "/home/me/runs/weak"}
    (folder / "score.json").write_text(json.dumps(SCORE | {"samples": samples}))
    return export_model(discli.load(tiny_run), folder / "mine.safetensors", [folder / "score.json"], DRAWS, TERMS)


@pytest.fixture
def mine(made, tmp_path, monkeypatch) -> Path:
    """A folder that the variable names, with one model; the current folder is another, without runs."""
    folder, here = tmp_path / "models", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    for file in (made, card_file(made)):
        shutil.copy(file, folder)
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.chdir(here)
    return folder / made.name


def test_a_model_has_one_step(mine):
    assert discli.load("mine", step=30).step == 30
    with pytest.raises(DiscliError, match="step 30, not 5"):
        discli.load("mine", step=5)


def test_a_name_may_hold_brackets(mine, command):
    shutil.copy(mine, mine.with_name("[red]mine.safetensors"))
    assert "\n[red]mine\n" in "\n" + command("models")[0]


def test_a_model_is_a_run_in_half_the_bytes_and_names_no_place(made, tiny_run):
    half = load_file(made)
    whole = load_file(tiny_run / "checkpoints" / "00000030" / "ema.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in whole.items())
    card = read_card(made)
    assert (card.draws, card.terms, is_as_published(made, card)) == (DRAWS, TERMS, True)
    assert " s (" in card.training
    assert " thread" in card.training
    assert card.score_lines == ["FD (random features), not comparable with FID: 1.234 (n 200)"]
    for place in (b"/home/me", str(tiny_run.parent).encode()):
        assert place not in made.read_bytes() + card_file(made).read_bytes()


def test_it_names_no_place_either_where_it_began_or_what_its_recipe_reads(tiny_run, tmp_path):
    model = discli.load(tiny_run)
    place = {"source": "/home/me/runs/a", "take": "ema", "file": "/home/me/runs/a/ema.safetensors", "sha256": "0" * 64}
    began = Began.model_validate({**place, "step": 3, "before": {**place, "step": 2}})
    data = model.recipe.data.model_copy(update={"file": Path("/home/me/data.h5")})
    told = replace(model, began=began, recipe=model.recipe.model_copy(update={"data": data}))
    made = export_model(told, tmp_path / "mine.safetensors", draws=DRAWS, terms=TERMS)
    assert b"/home/me" not in made.read_bytes()
    assert str(discli.load(made).began) == str(began)


def test_by_its_name_it_is_loaded_in_float32_sampled_described_and_exported(mine, tiny_run, tmp_path, command):
    model = discli.load("mine")
    assert (model.checkpoint, model.step) == (mine, 30)
    assert next(model.network.parameters()).dtype == torch.float32
    difference = discli.sample("mine", 4).pixels.float() - discli.sample(tiny_run, 4).pixels.float()
    assert difference.abs().mean() < 1  # of rounding to float16
    facts = command("info", "mine")[0]
    assert all(told in facts for told in (DRAWS, TERMS, "sha256 ", "1.234"))
    card = (export_diffusers(model, tmp_path / "out") / "README.md").read_text()
    assert TERMS in card
    assert "1.234" in card


def test_the_command_lists_what_there_is_to_say(mine, command):
    listed = command("models")[0]
    for told in ("mine", "digits", DRAWS, TERMS, "8 px, 10 classes: 0, 1, ", "1.234 (n 200)", str(mine)):
        assert told in " ".join(listed.split())
    assert {model["name"]: model["problem"] for model in json.loads(command("models", "--json")[0])}["mine"] is None


def test_ones_own_run_is_meant_before_a_model_and_ones_own_model_before_that_of_the_box(mine, tiny_run, command):
    assert find_run("mine") == mine
    shutil.copy(mine, mine.with_name("digits.safetensors"))
    assert find_run("digits") == mine.with_name("digits.safetensors")
    shutil.copytree(tiny_run, Path("runs/mine"))
    Path("digits").mkdir()  # images of somebody: no run
    assert find_run("mine") == Path("runs/mine")
    assert find_run("digits") == mine.with_name("digits.safetensors")
    hidden = {(model.name, model.file): model.hidden_by for model in list_models()}
    assert hidden["mine", mine] == Path("runs/mine")
    assert hidden["digits", BOX / "digits.safetensors"] == mine.with_name("digits.safetensors")
    shown = " ".join(command("models")[1].split())
    assert "mine stands for runs/mine; this model is " in shown


@pytest.mark.parametrize("damage", ["weights", "card", "other file"])
def test_damage_to_one_stops_no_other_and_the_doctor_finds_it(damage, mine, command):
    if damage == "weights":
        mine.write_bytes(mine.read_bytes()[:100])
    elif damage == "card":
        card_file(mine).write_text("{}")
    else:
        save_file({"a": torch.zeros(1)}, mine)
    first, *others = list_models()
    assert (first.name, first.problem is not None) == ("mine", True)
    assert others
    assert all(model.problem is None for model in others)
    found = {finding.name: finding.verdict for finding in weights.CHECKS["models"](CheckContext(offline=True))}
    assert found == {"model mine": "warning", "models": "ok"}
    assert "problem" in command("models")[0]


def test_the_doctor_finds_weights_that_are_not_those_of_the_card(mine, monkeypatch, command):
    save_file({name: 2 * tensor for name, tensor in load_file(mine).items()}, mine, metadata=_header(mine))
    (first, *_) = weights.CHECKS["models"](CheckContext(offline=True))
    assert (first.name, first.verdict, "sha256" in first.found) == ("model mine", "warning", True)
    assert "sha256 differs" in command("info", "mine")[0]
    monkeypatch.setenv(VARIABLE, "/nowhere/at all")
    last = [*weights.CHECKS["models"](CheckContext(offline=True))][-1]
    assert (last.verdict, "/nowhere/at all" in last.found) == ("warning", True)


def _header(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["sample", "mien"], "discli models"),
        (["export", "mine", "--to", "model", "--out", "a-folder"], "--out"),
        (["export", "mine", "--to", "safetensors", "--draws", "x"], "--to model"),
        (["export", "mine", "--to", "model", "--set", "train.steps=3"], "sample.cfg_scale"),
        (["export", "mine", "--to", "model", "--set", "sample.cfg_scal=3"], "cfg_scale"),
        (["report", "mine"], "discli runs"),
        (["eval-fid", "mine", "--features", "random"], "--ref"),
    ],
)
def test_bad_input_says_what_to_do(words, key, mine, command):
    with pytest.raises(DiscliError) as refused:
        command(*words)
    assert refused.value.status == 2
    assert key in f"{refused.value.message} {refused.value.hint}"
    assert [*Path().iterdir()] == []


def test_how_it_is_sampled_may_be_chosen_once_it_is_trained(mine, command):
    command("export", "mine", "--to", "model", "--out", "other.safetensors", "--set", "sample.cfg_scale=3.5")
    assert discli.load("other.safetensors").recipe.sample.cfg_scale == 3.5
    assert read_card(Path("other.safetensors")).terms == TERMS


def test_a_model_without_words_is_refused_and_nothing_is_written(tiny_run, tmp_path):
    with pytest.raises(DiscliError, match="terms"):
        export_model(discli.load(tiny_run), tmp_path / "a.safetensors", draws=DRAWS)
    assert [*tmp_path.iterdir()] == []


def test_what_is_in_the_box_is_small_whole_and_says_its_terms():
    found = [model for model in list_models() if model.file.parent == BOX]
    terms = {"cifar10": "whose page states no licence", "digits": "CC BY 4.0"}
    assert {model.name for model in found} == set(terms)
    for model in found:
        assert terms[model.name] in model.card.terms
        assert (model.problem, model.bytes <= 8_000_000) == (None, True)
        assert is_as_published(model.file, model.card)
        assert model.card.scores
        with safe_open(model.file, "pt") as weights:
            told = [card_file(model.file).read_text(encoding="utf-8"), *weights.metadata().values()]
        assert not [text for text in told if text.startswith("/") or '"/' in text]  # no folder of who trained it


def test_the_digits_of_the_box_are_those_asked_for(digits_file):
    drawn = discli.sample(BOX / "digits.safetensors", 40, classes="balanced")
    real, classes = _rows(open_images(digits_file, torch.device("cpu")))
    look = Real(real, classes).look_at(drawn.pixels.flatten(1), torch.tensor(drawn.classes))
    assert look.recognised > 0.85  # by 200 real ones, which recognise fewer than all do
    assert look.variety > 0.8


def test_the_things_of_the_box_are_those_asked_for():
    drawn = discli.sample(BOX / "cifar10.safetensors", 50, classes="balanced", steps=8)
    classifier, _ = read_classifier(WEIGHTS)
    recognised = classifier(drawn.pixels / 127.5 - 1).argmax(1) == torch.tensor(drawn.classes)
    assert recognised.float().mean() > 0.3  # by chance 0.1
