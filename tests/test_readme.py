"""What the documentation says of the program is so: help, command lines, names, links, recipes and Python.

All pages are held to it: README.md, the README.md of every folder, and .github's guides.
"""

import ast
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from discli.cli.quickstart import unpack_digits
from discli.recipe import load_recipe, load_study, parse_recipe, shipped_recipes, shipped_studies
from discli.recipe.load import merge, read_tree
from discli.recipe.sample import SAMPLERS
from tests import readme
from tests.cli.commands import COMMANDS, discli, flags, parse
from tests.tiny_run import RECIPE

PAGES = readme.pages()
FRONT = PAGES["README.md"]
REFERENCE = readme.REFERENCE.read_text()
HELP = readme.help_blocks(REFERENCE)


def found_in(find: Callable[[str], list[str]]) -> list[tuple[str, str]]:
    """(page, piece) for whatever ``find`` finds in each page's text, each once."""
    return sorted({(page, piece) for page, text in PAGES.items() for piece in find(text)})


SHELL = found_in(lambda text: readme.fenced(text, "sh", "bash", "console"))
LINES = [(page, words) for page, script in SHELL for words in readme.command_lines(script)]
INLINE = found_in(readme.inline_code)
PROMISED = [
    "discli encode imagenet/ --res 256",
    "discli train recipes/dis-l-2.toml",
    "discli sample --cfg-scale 1.5 -n 50000",
    "discli eval-fid samples/",
    "discli ablate",
]
# The argument of a command that is a recipe's or a study's name, unless it is a path.
NAMES = {("train",): "recipe", ("info",): "what", ("recipe", "show"): "name", ("ablate",): "study"}
STALE = "discli/cli/README.md is out of date. Run: python -m tests.readme --write"


def test_every_command_has_its_help_there():
    named = {readme.path_of(name) for name in HELP}
    missing = [" ".join(path) or "discli" for path in COMMANDS.keys() - named]
    assert missing == [], "Put <!-- help: NAME --> and <!-- /help --> into discli/cli/README.md, and --write"
    assert named <= COMMANDS.keys(), "Take out the blocks of commands that are gone"


def test_every_variable_of_the_environment_is_there():
    code = "".join(path.read_text() for path in (readme.ROOT / "discli").rglob("*.py"))
    named = {f"`{name}`" for name in re.findall(r"\bDISCLI_[A-Z0-9_]+", code)}
    assert named <= set(re.findall(r"`DISCLI_\w+`", REFERENCE))


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
    # Without blanks: a line may end after a word's hyphen.
    shown, path = "".join(HELP[name].split()), readme.path_of(name)
    for parameter in COMMANDS[path].params:
        assert "".join((parameter.help or "").split()) in shown, STALE
    described = HELP[name].partition("Options:")[2]
    assert set(re.findall(r"^  (-[\w-]+)", described, re.MULTILINE)) <= flags(path), STALE
    assert "".join(COMMANDS[path].epilog.split()) in shown, STALE


@pytest.mark.parametrize("change", ["--data", "Example: discli train"])
def test_rewriting_brings_back_what_went_stale(change):
    stale = REFERENCE.replace(change, "--dta")
    assert readme.help_blocks(stale)["train"] != HELP["train"]
    assert readme.help_blocks(readme.rewritten(stale))["train"] == readme.live_help("train")


@pytest.mark.parametrize(("page", "words"), LINES, ids=lambda part: part if isinstance(part, str) else " ".join(part))
def test_a_command_line_parses_and_its_recipe_is_there(page, words):
    path, given = parse(words)
    if given.get("sampler"):
        assert given["sampler"] in SAMPLERS
    name = given.get(NAMES.get(path, ""), "")
    if name.startswith("recipes/"):
        assert (readme.ROOT / name).exists()
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
        test_a_command_line_parses_and_its_recipe_is_there("README.md", wrong.split())


@pytest.mark.parametrize(("page", "code"), [(page, code) for page, code in INLINE if code.startswith("discli ")])
def test_commands_in_prose_exist_with_their_flags(page, code):
    """Placeholders may stand there for values, so only names are checked."""
    for words in readme.command_lines(code):
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in COMMANDS:
            path, words = (*path, words[0]), words[1:]
        named = {word for word in words if word.startswith("-")}
        assert path or named
        assert named <= flags(path)


def test_flags_in_prose_belong_to_some_command_or_benchmark():
    known = set().union(*map(flags, COMMANDS))
    benchmarks = "".join(path.read_text() for path in (readme.ROOT / "tests/bench").glob("*.py"))
    named = {word for _, code in INLINE if code.startswith("--") for word in code.split() if word.startswith("--")}
    assert named
    assert {flag for flag in named - known if f'"{flag}"' not in benchmarks} == set()


def test_modules_to_run_are_there():
    modules = {module for _, module in found_in(re.compile(r"python -m ((?:tests|discli)\.[.\w]*\w)").findall)}
    assert modules
    for module in modules:
        place = readme.ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


def test_names_that_look_shipped_are():
    code = "\n".join(code for _, code in [*INLINE, *SHELL])
    words = set(re.findall(r"(?<![\w./-])[a-z0-9][\w-]*(?![\w.-])", code))
    recipes = {word for word in words if re.search(r"(^|-)dis-[sbmlh]-\d", word)}
    studies = {word for word in words if word.endswith("-small")}
    assert recipes
    assert recipes <= shipped_recipes().keys()
    assert studies <= shipped_studies().keys()


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_and_images_lead_somewhere(page):
    assert readme.broken_links(readme.ROOT / page) == set()


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("# One `two`\n[b](#one-two) [c](a.md#one-two) [d](#one) [e](no.md) [f](a.md#x) [g](..)")
    assert readme.broken_links(page) == {"#one", "no.md", "a.md#x", ".."}


PATH = re.compile(r"(discli|recipes|tests)/[\w*/.{},-]*$")


@pytest.mark.parametrize(("page", "path"), [(page, code) for page, code in INLINE if PATH.match(code)])
def test_paths_in_prose_are_there(page, path):
    assert next(readme.ROOT.glob(path), None), path


@pytest.mark.parametrize(("page", "written"), found_in(lambda text: readme.fenced(text, "toml")))
def test_recipes_and_studies_are_valid(page, written, tmp_path):
    tree = tomllib.loads(written)
    if "base" in tree:
        (tmp_path / "study.toml").write_text(written)
        load_study(tmp_path / "study.toml")
    elif "name" in tree and "extends" not in tree:
        parse_recipe(tree, page)
    else:  # a part of one
        tree.pop("extends", None)
        parse_recipe(merge(read_tree(shipped_recipes()["quickstart"]), tree), page)


@pytest.mark.parametrize(("page", "code"), found_in(lambda text: readme.fenced(text, "python")))
def test_python_is_python(page, code):
    ast.parse(code)


def test_the_python_api_does_what_the_front_page_shows(tmp_path, monkeypatch):
    """As written but for sizes: digits of 8 px for images of 64, and a score that needs no download."""
    [code] = readme.fenced(FRONT, "python")
    assert (code.count('"my-images", 64'), code.count("n=5000")) == (1, 1)
    code = code.replace('"my-images", 64', '"my-images", 8').replace("n=5000", 'n=20, features="random", bootstrap=0')
    unpack_digits(tmp_path / "my-images")
    (tmp_path / "mine.toml").write_text(RECIPE.replace('"tiny"', '"mine"'))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["images"].pixels) == 16
    assert (tmp_path / "runs/mine/run.json").is_file()


def test_the_front_page_is_short():
    assert len(FRONT.splitlines()) <= 230
    assert len(FRONT.encode()) < 14_000


def test_the_front_page_has_a_line_for_every_command_and_every_room():
    commands = set(re.findall(r"^\| `([\w-]+)` \|", FRONT, re.MULTILINE))
    assert commands == {path[0] for path in COMMANDS if len(path) == 1}
    rooms = set(re.findall(r"^\| \[`(\w+)/`\]\(discli/\1/\) \|", FRONT, re.MULTILINE))
    assert rooms == {path.parent.name for path in readme.ROOT.glob("discli/*/__init__.py")}


@pytest.mark.parametrize("promised", PROMISED)
def test_the_front_page_has_the_promised_lines(promised):
    shell = "".join(readme.fenced(FRONT, "sh"))
    assert re.search(rf"^{re.escape(promised)}( |$)", shell, re.MULTILINE)
