"""Wrong input: a line of what is wrong, a line of how to mend it, status 2, and no traceback."""

import ast
from pathlib import Path

import pytest

import discli as package
from discli.runtime.errors import did_you_mean
from tests.cli.commands import discli


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["smaple"], "smaple", "Did you mean sample?"),
        (["zzz"], "zzz", "There are: quickstart"),
        (["recipe", "shwo"], "recipe shwo", "Did you mean show?"),
        (["train"], "Missing argument", "Example: discli train"),
        (["ema", "runs/mine"], "Missing option '--std'", "Example: discli ema"),
        (["train", "a", "b"], "unexpected extra argument", "See discli train --help."),
        (["encode", *(f"a/{i:04}.jpg" for i in range(999))], "a/0001.jpg", "in quotes. See discli encode --help."),
        (["train", "--dta", "x"], "--dta", "Did you mean --data?"),
        (["--hlep"], "--hlep", "Did you mean --help?"),
        (["sample", "--sed", "1"], "--sed", "Did you mean --seed?"),
        (["sample", "--no-compil"], "--no-compil", "Did you mean --no-compile?"),
        (["encode", "x", "--crop", "amd"], "--crop amd: not one of adm, resize", "Did you mean adm?"),
        (["encode", "x", "--codec", "VEA"], "--codec VEA", "Did you mean vae?"),
        (["sample", "--format", "jpg"], "--format jpg", "See discli sample --help."),
        (["sample", "-n", "x"], "'-n'", "See discli sample --help."),
        (["recipe", "show", "no-such-recipe"], "No recipe at no-such-recipe", "quickstart"),
        (["recipe", "show", "quikstart"], "No recipe at quikstart", "Did you mean quickstart?"),
        (["recipe", "show", "quickstart", "--set", "model.depth=4"], "model.depth", "Change model.depth"),
        (["recipe", "show", "quickstart", "--set", "train.batchsize=4"], "train.batchsize", "Did you mean batch_size?"),
        (["recipe", "show", "quickstart", "--set", "trian.steps=4"], "trian", "Did you mean train?"),
        (["recipe", "show", "quickstart", "--set", "model.skip=concta"], "'concta'", "Did you mean concat?"),
        (["recipe", "show", "quickstart", "--set", "train.parallel=fdsp2"], "'fdsp2'", "Did you mean fsdp2?"),
        (["train", "quickstart"], "no data file", "--data"),
        (["train", "quickstart", "--data", "."], ". is a folder, not a data file", "discli encode . --res SIDE"),
        (["recipe", "new", "x", "--res", "8", "--out", "/dev/null/x.toml"], "/dev/null: ", "another place"),
        (["sample", "-n", "0"], "'-n'", "See discli sample --help."),
        (["encode", "x", "--merge", "out.h5"], "x does not exist", "Write it with discli encode"),
        (["encode", "--merge", "out.h5", "--crop", "adm"], "--crop means nothing beside --merge", "Leave"),
        (["export", "mine"], "--to", "discli export"),
        (["import"], "CKPT.pt", "discli import"),
        (["eval-fid", "s", "--metrics", "fid,kdi"], "kdi", "kid"),
        (["make-ref", "s", "--out", "r.npz", "--features", "inceptoin"], "inceptoin", "inception"),
        (["compare", "a.json"], "Two scores", "discli compare"),
    ],
)
def test_a_mistake_is_two_lines_and_status_2(arguments, what, how, tmp_path):
    done = discli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("discli: ")
    assert len(first) < 400
    assert what in first
    assert second.startswith("  ")
    assert how in second
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in discli("--debug", "recipe", "show", "no-such-recipe", cwd=tmp_path).stderr


def test_every_discli_error_says_what_to_do():
    silent = []
    for path in sorted(Path(package.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_error = isinstance(node, ast.Call) and ast.unparse(node.func) == "DiscliError"
            if is_error and (len(node.args) < 2 or ast.unparse(node.args[1]) in ("''", '""')):
                silent.append(f"{path.name}:{node.lineno}")
    assert silent == []


def test_suggestions():
    assert did_you_mean("EULR", ["ddim", "euler"]) == "Did you mean euler?"
    assert did_you_mean("xyz", ["ddim", "euler"]) == ""
    assert did_you_mean("x", []) == ""
