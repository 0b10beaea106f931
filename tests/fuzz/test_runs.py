"""Whatever happened to a run: what is whole of it is used and left as it is, and nothing in it is executed."""

import io
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from discli.cli.info import info
from discli.cli.runs import runs as list_runs
from discli.cost import describe as info_recipe
from discli.reports.run import report_run
from discli.runs.checkpoint import verify_checkpoint, write_checkpoint
from discli.runs.status import run_status
from discli.sampling.load import load, newest_run
from discli.training.train import train
from tests.fuzz.damage import ODD, answer, code, contents, damaged, damaged_json, examples, with_code
from tests.tiny_run import RECIPE, content

STEPS = (4, 8, 12)
CHECKPOINTS = [f"checkpoints/{step:08d}" for step in STEPS]
TENSORS = [f"{folder}/{name}.safetensors" for folder in CHECKPOINTS for name in ("ema", "model", "optimizer")]
STATES = [f"{folder}/state.json" for folder in CHECKPOINTS]
LOGS = ["metrics.jsonl", "speed.jsonl", "scores.jsonl", "holdout.jsonl", "events.jsonl", "sessions.jsonl"]
SCORE = {
    "features": "random", "scores": {"FD": 3.0, "FD std": 0.1}, "distance": 3.0, "effect_of_n": None, "warnings": [],
    "samples": {"path": "s", "kind": "samples", "n": 9, "step": 12, "resolution": [8, 8]}, "per_class": None,
    "reference": {"path": "r", "kind": "data file", "n": 9, "resolution": [8, 8], "sha256": "0"}, "network": "n",
    "convention": None, "weights_sha256": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_file) -> Path:
    """A finished run of 12 steps with three checkpoints, a score and a preview."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(RECIPE)
    run = train(folder / "tiny.toml", data=digits_file, out=folder / "run")
    (run / "metrics.jsonl").write_text('{"step": 6, "loss": 1.0}\n{"step": 12, "loss": 0.5}\n')
    (run / "speed.jsonl").write_text('{"step": 12, "mfu": 0.1}\n')
    (run / "scores.jsonl").write_text('{"step": 12, "FD": 3.0, "n": 8}\n')
    (run / "score.json").write_text(json.dumps(SCORE))
    return run


@pytest.fixture
def copied(whole, tmp_path) -> Callable[[], Path]:
    """A fresh copy, in a folder whose name could be taken for a colour."""

    def copy() -> Path:
        run = tmp_path / "[red] runs [/x]" / "run"
        shutil.rmtree(run, ignore_errors=True)
        return Path(shutil.copytree(whole, run))

    return copy


@pytest.fixture(autouse=True, scope="module")
def _plan_once():
    """What a recipe takes is worked out by a forward pass each time; here the recipe is nearly always the same."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("activation_memory", "count_evaluations"):
            patch.setattr(info_recipe, name, cache(getattr(info_recipe, name)))
        yield


def look(run: Path, report: bool = False) -> None:
    """Everything that reads a run; nothing of it may change. A ``report`` draws curves, which takes a while."""
    before = contents(run)
    answer(lambda: list_runs(run.parent))
    answer(lambda: list_runs(run.parent, as_json=True))
    for path in (run, run / CHECKPOINTS[0], run / CHECKPOINTS[-1]):
        answer(lambda path=path: info(str(path)))
    if report:
        answer(lambda: report_run(run, out=run.parent / "report.html"))
    answer(lambda: load(run, "cpu"))
    answer(lambda: load(run, "cpu", step=8))
    answer(lambda: newest_run(run.parent))
    for name in ("", "/ema.safetensors"):
        answer(lambda name=name: load(run / f"{CHECKPOINTS[-1]}{name}", "cpu"))
    assert contents(run) == before


def spoil(draw: Callable, run: Path, name: str) -> None:
    path = run / name
    good = path.read_bytes()
    path.write_bytes(draw(damaged_json(good) if path.suffix == ".json" else damaged(good)))


@pytest.mark.slow
@examples(14)
@given(st.data(), st.sampled_from(["run.json", "score.json", *STATES, *TENSORS[::2], *LOGS, *LOGS]))
def test_looking_at_a_damaged_run(copied, data, name):
    run = copied()
    spoil(data.draw, run, name)
    look(run, report=name in ("run.json", "score.json", *LOGS))


LINES = st.lists(
    st.dictionaries(
        st.sampled_from(["step", "step", "loss", "lr", "n", "FD", "rollbacks", "images_per_second", "mfu", "event",
                         "grad_norm", "indices", "started", "device", "peak_memory", "data_wait", "$x^", "\ud800"]),
        st.sampled_from(ODD) | st.integers(0, 20) | st.floats(), max_size=6,
    ),
    max_size=4,
)  # fmt: skip


@pytest.mark.slow
@examples(8)
@given(st.dictionaries(st.sampled_from(LOGS), LINES, min_size=1), st.lists(st.integers(1, 12), max_size=3))
def test_looking_at_odd_logs(copied, logs, steps):
    run = copied()
    for name, lines in logs.items():
        whole = [{"step": step, "loss": 1.0, "FD": 2.0, "images_per_second": 3} for step in steps]
        (run / name).write_text("".join(json.dumps(line) + "\n" for line in [*whole, *lines]))
    answer(lambda: list_runs(run.parent))
    answer(lambda: info(str(run)))
    answer(lambda: report_run(run, out=run.parent / "report.html"))


@examples(25)
@given(st.data(), st.sampled_from([*STATES, *TENSORS]))
def test_what_is_loaded_is_what_was_saved(whole, copied, data, name):
    """Bit for bit: of the newest checkpoint, or where that is damaged of the one before."""
    run = copied()
    spoil(data.draw, run, name)
    trained = answer(lambda: load(run, "cpu"))
    assert trained is not None, "two checkpoints are whole"
    assert trained.step == (8 if "00000012" in name and verify_checkpoint(run / CHECKPOINTS[-1]) else 12)
    saved = load_file(whole / f"checkpoints/{trained.step:08d}/ema.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in trained.network.state_dict().items())


@examples(8)
@given(st.data(), st.sampled_from(["run.json", STATES[0], *STATES[2:], *TENSORS[6:], *LOGS[:2]]))
def test_going_on_from_a_damaged_run(whole, copied, digits_file, data, name):
    run = copied()
    spoil(data.draw, run, name)
    before, untouched = contents(run, ".lock"), [folder for folder in CHECKPOINTS if folder not in name]
    resumed = answer(lambda: train(run.parents[1] / "tiny.toml", data=digits_file, out=run))
    after = contents(run, ".lock")
    if resumed is None:
        assert after == before, "refused, and yet something was written"
        return
    assert content(run)["tensors"] == content(whole)["tensors"], "another network than without the damage"
    for path, digest in before.items():
        if path.startswith(tuple(untouched)):
            assert after[path] == digest, f"{path} was whole, and is not what it was"


@pytest.fixture(autouse=True)
def _recipe(tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(copied, digits_file):
    """Its log of all the steps would go with it."""
    run = copied()
    for name in STATES:
        (run / name).write_text("{}")
    before = contents(run, ".lock")
    assert answer(lambda: train(run.parents[1] / "tiny.toml", data=digits_file, out=run)) is None
    assert contents(run, ".lock") == before


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"model": {"x": torch.zeros(3)}, "ema": {"x": torch.zeros(3)}, "optimizer": {}},
        {"model": "whole", "ema": "whole", "optimizer": {"step.x": torch.zeros(3)}},
        {"model": "one", "ema": "one", "optimizer": "whole"},
    ],
    ids=["none", "other names", "other optimizer", "other shapes"],
)
def test_a_whole_checkpoint_of_something_else_is_refused(whole, copied, digits_file, files):
    def tensors(name, what):
        if isinstance(what, dict):
            return what
        loaded = load_file(whole / CHECKPOINTS[-1] / f"{name}.safetensors")
        return {key: value.flatten()[:1] for key, value in loaded.items()} if what == "one" else loaded

    run = copied()
    state = {"rollbacks": 0, "skipped_in_a_row": 0, "window": [0.0] * 14}
    metadata = {"recipe": "[1]", "contract": "{}", "step": "x"}
    write_checkpoint(run, 16, {name: tensors(name, what) for name, what in files.items()}, state, metadata)
    before = contents(run, ".lock")
    again = RECIPE.replace("steps = 12", "steps = 20")
    (run.parents[1] / "longer.toml").write_text(again)
    assert answer(lambda: train(run.parents[1] / "longer.toml", data=digits_file, out=run)) is None
    assert contents(run, ".lock", "run.json") == {k: v for k, v in before.items() if k != "run.json"}
    look(run)


@pytest.mark.parametrize(
    "state", [{}, {"window": []}, {"window": ["x"] * 14}, {"window": [0.0] * 14, "rollbacks": "x"}, {"step": "x"}]
)
def test_a_state_without_a_hash_that_is_none(copied, digits_file, state):
    """As an earlier discli wrote it, which did not hash state.json itself."""
    run = copied()
    path = run / STATES[-1]
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key in ("format", "step", "files")}
    path.write_text(json.dumps(kept | state))
    look(run)
    answer(lambda: train(run.parents[1] / "tiny.toml", data=digits_file, out=run))


@pytest.mark.parametrize("name", ["²", "٣", "00000030.bak", "4", "-1", "[x]", ".writing-00000099", "9" * 30])
@pytest.mark.parametrize("kind", ["folder", "file", "checkpoint", "circle"])
def test_other_things_among_the_checkpoints(copied, name, kind):
    run = copied()
    path = run / "checkpoints" / name
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("x")
    elif kind == "circle":
        path.symlink_to(path.parent)
        (run / "previews").mkdir(exist_ok=True)
        (run / "previews" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    else:
        shutil.copytree(run / CHECKPOINTS[0], path)
    look(run)
    trained = answer(lambda: load(run, "cpu"))
    assert trained is not None
    assert trained.step == 12, "the newest is the highest number, however it is written"


@pytest.mark.parametrize("missing", ["run.json", "checkpoints", CHECKPOINTS[-1], *STATES[:1], *LOGS])
@pytest.mark.parametrize("instead", ["nothing", "a folder", "a file"])
def test_missing_parts(copied, missing, instead):
    run = copied()
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if instead == "a folder":
        path.mkdir()
    elif instead == "a file":
        path.write_text("{}")
    if (run / "run.json").exists() or (run / "checkpoints").is_dir():
        answer(lambda: run_status(run))
    look(run)


def pickles(sentinel: Path) -> list[bytes]:
    saved = io.BytesIO()
    torch.save({"model": with_code(sentinel)}, saved)
    return [code(sentinel), saved.getvalue(), (8).to_bytes(8, "little") + code(sentinel)]


@pytest.mark.parametrize("which", range(3))
def test_code_under_any_name_is_not_executed(copied, tmp_path, digits_file, which):
    sentinel = tmp_path / "executed"
    for name in ["run.json", "score.json", STATES[-1], *TENSORS[-3:], "metrics.jsonl", "previews/00000012.png"]:
        run = copied()
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(pickles(sentinel)[which])
        look(run)
        answer(lambda run=run: train(run.parents[1] / "tiny.toml", data=digits_file, out=run))
    for suffix in (".safetensors", ".pt", ".ckpt"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(pickles(sentinel)[which])
        answer(lambda path=path: load(path, "cpu"))
        answer(lambda path=path: info(str(path)))
    assert not sentinel.exists()


@examples(30)
@given(st.data())
def test_any_metadata_of_a_weights_file(whole, tmp_path, data):
    from safetensors import safe_open

    source, path = whole / TENSORS[-3], tmp_path / "w.safetensors"
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    key = data.draw(st.sampled_from(["recipe", "contract", "data_file", "step", "discli_version"]))
    if key in ("recipe", "contract"):
        metadata[key] = data.draw(damaged_json(metadata[key].encode())).decode("utf-8", "replace")
    else:
        metadata[key] = str(data.draw(st.sampled_from(ODD))).encode("utf-8", "replace").decode()
    weights = load_file(source)
    if data.draw(st.booleans()):
        weights = {name: tensor.double() for name, tensor in weights.items()}
    save_file(weights, path, metadata=metadata)
    trained = answer(lambda: load(path, "cpu"))
    if trained is not None:
        x = torch.zeros(1, *trained.recipe.input_shape)
        trained.network(x, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    answer(lambda: info(str(path), as_json=True))
