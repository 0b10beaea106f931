"""What README.md says of the program is so: help, command lines, names, links, recipes, and its worked example."""

import ast
import re
import tomllib

import pytest

from discli.recipe import load_recipe, load_study, parse_recipe, shipped_recipes, shipped_studies
from discli.recipe.load import merge, read_tree
from discli.recipe.sample import SAMPLERS
from tests import readme
from tests.cli.commands import COMMANDS, discli, flags, parse

TEXT = readme.README.read_text()
HELP = readme.help_blocks(TEXT)
SHELL = readme.fenced(TEXT, "sh", "bash", "console")
LINES = [words for script in SHELL for words in readme.command_lines(script)]
INLINE = readme.inline_code(TEXT)
# The argument of a command that is a recipe's or a study's name, unless it is a path.
NAMES = {("train",): "recipe", ("info",): "what", ("recipe", "show"): "name", ("ablate",): "study"}
STALE = "README.md is behind the program. Run: python -m tests.readme --write"


def test_every_command_has_its_help_there():
    named = {readme.path_of(name) for name in HELP}
    missing = [" ".join(path) or "discli" for path in COMMANDS.keys() - named]
    assert missing == [], "Put <!-- help: NAME --> and <!-- /help --> under Command reference, and --write"
    assert named <= COMMANDS.keys(), "Take out the blocks of commands that are gone"


@pytest.mark.skipif(
    readme.installed_typer() != readme.written_with(), reason=f"written with typer {readme.written_with()}"
)
@pytest.mark.parametrize("name", HELP)
def test_help_is_the_live_help(name):
    assert HELP[name] == readme.live_help(name), STALE


def test_live_help_is_what_a_terminal_of_80_columns_shows():
    assert readme.live_help("encode") == f"```text\n{discli('encode', '--help', COLUMNS='80').stdout}```\n"


@pytest.mark.parametrize("name", HELP)
def test_help_has_every_word_whichever_typer_wrote_it(name):
    shown, path = " ".join(HELP[name].split()), readme.path_of(name)
    for parameter in COMMANDS[path].params:
        assert " ".join((parameter.help or "").split()) in shown, STALE
    described = HELP[name].partition("Options:")[2]
    assert set(re.findall(r"^  (-[\w-]+)", described, re.MULTILINE)) <= flags(path), STALE
    assert " ".join(COMMANDS[path].epilog.split()) in shown, STALE


@pytest.mark.parametrize("change", ["--data", "Example: discli train"])
def test_rewriting_brings_back_what_went_stale(change):
    stale = TEXT.replace(change, "--dta")
    assert readme.help_blocks(stale)["train"] != HELP["train"]
    assert readme.help_blocks(readme.rewritten(stale))["train"] == readme.live_help("train")


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_command_line_parses_and_its_recipe_is_there(words):
    path, given = parse(words)
    if given.get("sampler"):
        assert given["sampler"] in SAMPLERS
    name = given.get(NAMES.get(path, ""), "")
    if not name or re.search(r"[./]", name):  # a file or folder of the reader's
        return
    if path == ("ablate",):
        load_study(name)
    else:
        load_recipe(name, given["overrides"])


def test_command_lines_are_found_however_they_are_started():
    script = """
    python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/discli quickstart
    torchrun --nproc-per-node 8 -m discli train dis-l-2 \\
      --set train.steps=3   # discli in a comment
    srun --kill-on-bad-exit discli train 'a b' > discli.log; cd discli; pip install discli
    """
    found = [["quickstart"], ["train", "dis-l-2", "--set", "train.steps=3"], ["train", "a b"]]
    assert list(readme.command_lines(script)) == found


@pytest.mark.parametrize(
    "wrong",
    ["train quickstart --dta x", "encode x --crop amd", "smaple", "train no-such-recipe", "ablate no-such-study",
     "train quickstart --set train.stesp=3", "sample --sampler eulr"],
)  # fmt: skip
def test_a_wrong_command_line_is_found(wrong):
    with pytest.raises(Exception, match=r"No such|not one of|No recipe|No study|stesp|eulr"):
        test_a_command_line_parses_and_its_recipe_is_there(wrong.split())


@pytest.mark.parametrize("code", sorted({code for code in INLINE if code.startswith("discli ")}))
def test_commands_in_prose_exist_with_their_flags(code):
    """Placeholders may stand there for values, so only names are checked."""
    for words in readme.command_lines(code):
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in COMMANDS:
            path, words = (*path, words[0]), words[1:]
        assert path
        assert {word for word in words if word.startswith("-")} <= flags(path)


def test_flags_in_prose_belong_to_some_command_or_benchmark():
    known = set().union(*map(flags, COMMANDS))
    benchmarks = "".join(path.read_text() for path in (readme.ROOT / "tests/bench").glob("*.py"))
    named = {word for code in INLINE if code.startswith("--") for word in code.split() if word.startswith("--")}
    assert named
    assert {flag for flag in named - known if f'"{flag}"' not in benchmarks} == set()


def test_modules_to_run_are_there():
    modules = set(re.findall(r"python -m ((?:tests|discli)[.\w]*)", TEXT))
    assert modules
    for module in modules:
        place = readme.ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


def test_names_that_look_shipped_are():
    words = {word for code in [*INLINE, *SHELL] for word in re.findall(r"(?<![\w./-])[a-z0-9][\w-]*(?![\w.-])", code)}
    recipes = {word for word in words if re.search(r"(^|-)dis-[sbmlh]-\d", word)}
    studies = {word for word in words if word.endswith("-small")}
    assert recipes
    assert recipes <= shipped_recipes().keys()
    assert studies <= shipped_studies().keys()


@pytest.mark.parametrize("target", sorted(readme.local_links(TEXT)))
def test_links_and_images_are_there(target):
    if target.startswith("#"):
        assert target in readme.headings(TEXT)
    else:
        assert (readme.ROOT / target.partition("#")[0]).exists()


@pytest.mark.parametrize(
    "path", sorted({code for code in INLINE if re.match(r"(discli|recipes|tests)/[\w*/.{},-]*$", code)})
)
def test_paths_in_prose_are_there(path):
    assert next(readme.ROOT.glob(path), None), path


@pytest.mark.parametrize("written", readme.fenced(TEXT, "toml"))
def test_recipes_and_studies_are_valid(written, tmp_path):
    tree = tomllib.loads(written)
    if "base" in tree:
        (tmp_path / "study.toml").write_text(written)
        load_study(tmp_path / "study.toml")
    elif "name" in tree and "extends" not in tree:
        parse_recipe(tree, "README.md")
    else:  # a part of one
        tree.pop("extends", None)
        parse_recipe(merge(read_tree(shipped_recipes()["quickstart"]), tree), "README.md")


@pytest.mark.parametrize("code", readme.fenced(TEXT, "python"))
def test_python_is_python(code):
    ast.parse(code)
