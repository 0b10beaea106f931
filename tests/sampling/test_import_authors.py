"""Reading the authors' checkpoints: the golden weights through a file of theirs, and files that are none."""

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from discli.cli import entry  # noqa: F401
from discli.cli.app import app
from discli.runtime.errors import DiscliError
from discli.sampling.import_authors import import_checkpoint
from discli.sampling.load import load_model


@pytest.fixture
def state(shared) -> dict[str, torch.Tensor]:
    golden = load_file(shared / "golden" / "b_class10.f32.safetensors")
    return {k.removeprefix("state."): v.float() for k, v in golden.items() if k.startswith("state.")}


def test_an_authors_checkpoint_becomes_a_run_with_their_outputs(state, shared, tmp_path):
    file = tmp_path / "their model 42.pt"
    wrapped = {"module." + name: tensor for name, tensor in state.items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in wrapped.items()}
    torch.save({"model": zeros, "ema": wrapped, "args": argparse.Namespace(lr=1e-4)}, file)

    run = import_checkpoint(file, tmp_path / "run")
    trained = load_model(run, torch.device("cpu"))
    golden = load_file(shared / "golden" / "b_class10.f32.safetensors")
    out = trained.network(golden["input.x"], golden["input.t"], golden["input.labels"])
    torch.testing.assert_close(out, golden["out"], rtol=0, atol=1e-3)
    assert trained.recipe.model.num_classes == 10
    assert trained.recipe.diffusion.learn_sigma


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("kind", ["bomb", "text", "empty", "list", "other-model", "missing"])
def test_other_files_are_refused_in_one_line_and_never_executed(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model.pt"
    match kind:
        case "bomb":
            file.write_bytes(pickle.dumps({"ema": _Bomb()}))
        case "text":
            file.write_text("no weights here")
        case "empty":
            file.touch()
        case "list":
            torch.save([torch.zeros(2)], file)
        case "other-model":
            torch.save({"conv1.weight": torch.zeros(2)}, file)
    with pytest.raises(DiscliError) as caught:
        import_checkpoint(file, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "run").exists()


def test_a_variant_with_a_missing_part_is_refused(state, tmp_path):
    del state["out_blocks.0.skip_linear.weight"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(DiscliError, match="do not fit a DiS") as refused:
        import_checkpoint(tmp_path / "model.pt", tmp_path / "run")
    assert refused.value.hint.startswith("Give")  # what to do, not a question


def test_a_file_that_would_run_code_is_refused_without_torchs_advice_to_run_it(tmp_path):
    with (tmp_path / "model.pt").open("wb") as file:
        torch.save({"ema": _Bomb()}, file)
    with pytest.raises(DiscliError) as refused:
        import_checkpoint(tmp_path / "model.pt", tmp_path / "run")
    said = f"{refused.value.message} {refused.value.hint}"
    assert "system" in refused.value.message
    assert "weights_only" not in said
    assert "safe_globals" not in said
    assert "trust" not in said


def test_the_command_imports_and_refuses(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"ema": state}, "theirs.pt")
    done = CliRunner().invoke(app, ["import", "theirs.pt"])
    assert (done.exit_code, done.stdout.strip()) == (0, "runs/theirs")
    assert load_model(tmp_path / "runs" / "theirs", torch.device("cpu")).step == 0
    again = CliRunner().invoke(app, ["import", "theirs.pt"])
    assert isinstance(again.exception, DiscliError)
    assert "not empty" in again.exception.message
