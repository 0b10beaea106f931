"""What the shell offers after TAB."""

import json
import os
import subprocess
import sys

import pytest

from discli.diffusion.samplers import SAMPLERS
from discli.recipe.shipped import shipped_files
from tests.cli.commands import COMMANDS
from tests.cli.test_help import HEAVY


def _offers(words: str) -> list[str]:
    """What bash is told for the last of ``words``."""
    split = words.split(" ")
    environment = {"_DISCLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(split) - 1)}
    return _run([sys.executable, "-m", "discli"], environment).splitlines()


def _run(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


def test_commands():
    assert set(_offers("discli ")) == {path[0] for path in COMMANDS if len(path) == 1}
    assert _offers("discli eval") == ["eval-fid"]
    assert _offers("discli eval-fid s --metrics fid,k") == ["fid,kid"]
    assert _offers("discli eval-fid s --features d") == ["dinov2"]
    assert set(_offers("discli recipe ")) == {"list", "show", "new", "schema"}


@pytest.mark.parametrize("command", ["train", "recipe show"])
def test_shipped_recipes(command):
    assert set(_offers(f"discli {command} ")) == set(shipped_files())
    assert _offers(f"discli {command} quick") == ["quickstart"]


def test_shipped_studies():
    assert set(_offers("discli ablate ")) == set(shipped_files("ablations"))


def test_flags_and_their_values():
    assert "--data" in _offers("discli train --d")
    assert _offers("discli recipe new mine --preset dis-") == ["dis-s", "dis-b", "dis-m", "dis-l", "dis-h"]
    assert _offers("discli encode x --codec v") == ["vae"]


def test_samplers_and_the_classes_of_a_run(tmp_path, monkeypatch):
    assert _offers("discli sample --sampler un") == ["unipc"]
    assert set(_offers("discli sample --sampler ")) == set(SAMPLERS)
    monkeypatch.chdir(tmp_path)
    assert _offers("discli sample --classes ") == ["random", "balanced"]
    for place, names in (("runs/mine", ["cat", "dog", "Tench, Tinca"]), ("other", ["7"])):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").write_text(json.dumps({"contract": {"class_names": names}}))
    assert _offers("discli sample --classes d") == ["dog"]
    assert _offers("discli sample --classes cat,T") == ["cat,Tench"]
    assert _offers("discli sample other --classes ") == ["random", "balanced", "7"]
    (tmp_path / "other" / "run.json").write_bytes(b"\xff[")
    assert _offers("discli sample other --classes b") == ["balanced"]


def test_the_shells_that_show_descriptions_get_the_first_comment():
    environment = {"_DISCLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    shown = _run([sys.executable, "-m", "discli"], environment | {"_TYPER_COMPLETE_ARGS": "discli train quick"})
    assert shown.split()[:5] == ["quickstart", "A", "tiny", "class-conditional", "DiS"]


def test_nothing_heavy_is_imported():
    code = (
        "import json, sys; sys.argv = ['discli']\nfrom discli.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    code += f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    environment = {"_DISCLI_COMPLETE": "complete_bash", "COMP_WORDS": "discli train ", "COMP_CWORD": "2"}
    offers = _run([sys.executable, "-c", code], environment).splitlines()
    assert "quickstart" in offers
    # Typer, from 0.29 on, imports pydantic itself to parse the words so far.
    assert set(json.loads(offers[-1])) <= {"pydantic"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_installing_it(shell, tmp_path):
    environment = {"HOME": str(tmp_path), "SHELL": f"/bin/{shell}", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    told = _run([sys.executable, "-m", "discli", "--install-completion", shell], environment)
    assert "completion installed" in told
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_DISCLI_COMPLETE=complete_" in text for text in written)
