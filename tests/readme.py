"""The documentation beside the live program: the command reference (discli/cli/README.md), links, command lines.

After a change of commands, flags or help:

    python -m tests.readme --write
"""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from tests.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "discli/cli/README.md"

_HELP = re.compile(r"(<!-- help: ([\w -]+) -->\n)(.*?)(<!-- /help -->)", re.DOTALL)
# Typer's releases differ in how they write types and arguments, so what they write is compared within one.
_TYPER = re.compile(r"(<!-- as typer )([\d.]+)( shows it -->)")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LAUNCHERS = {"torchrun", "srun", "accelerate", "python", "python3"}


def pages() -> dict[str, str]:
    """Path from the root -> text of the README, of every folder's, and of the guides beside them."""
    folders = [ROOT / name for name in (".github", "discli", "recipes", "tests")]
    files = [ROOT / "README.md", *(path for folder in folders for path in sorted(folder.rglob("*.md")))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


def installed_typer() -> str:
    """Its version, without the patch."""
    return ".".join(typer.__version__.split(".")[:2])


def written_with() -> str:
    match = _TYPER.search(REFERENCE.read_text())
    assert match, "The command reference does not say which typer wrote it"
    return match[2]


def path_of(name: str) -> tuple[str, ...]:
    """``recipe new`` as a key of `COMMANDS`; ``discli`` is the program itself."""
    return () if name == "discli" else tuple(name.split())


def help_blocks(text: str) -> dict[str, str]:
    """Name -> what stands between its markers."""
    return {match[2]: match[3] for match in _HELP.finditer(text)}


def live_help(name: str) -> str:
    """``discli NAME --help`` in a terminal of 80 columns, fenced."""
    path = path_of(name)
    # Of the columns, click leaves the last two free. What commands take over from discli, they have no parent for here.
    settings = {**COMMANDS[()].context_settings, "resilient_parsing": True, "terminal_width": 78}
    with COMMANDS[path].make_context(" ".join(("discli", *path)), [], **settings) as context:
        return f"```text\n{context.get_help().rstrip()}\n```\n"


def rewritten(text: str) -> str:
    """The reference with every help block as it is now. Blocks of removed commands stay, for a person to remove."""

    def fill(block: re.Match[str]) -> str:
        known = path_of(block[2]) in COMMANDS
        return f"{block[1]}{live_help(block[2]) if known else block[3]}{block[4]}"

    return _TYPER.sub(rf"\g<1>{installed_typer()}\g<3>", _HELP.sub(fill, text))


def fenced(text: str, *languages: str) -> list[str]:
    """What stands in fenced blocks of these languages, help blocks not counted."""
    return [match[3] for match in _FENCE.finditer(_HELP.sub("", text)) if match[2] in languages]


def command_lines(script: str) -> Iterator[list[str]]:
    """The words after ``discli`` of every call of it in a piece of shell."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        call: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                yield from _after_discli(call)
                call = []
            else:
                call.append(word)


def _after_discli(call: list[str]) -> Iterator[list[str]]:
    for place, word in enumerate(call):
        started = place == 0 or call[0] in _LAUNCHERS
        if started and (word == "discli" or word.endswith("/bin/discli")):
            yield call[place + 1 :]
            return


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, in prose and tables."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _FENCE.sub("", _HELP.sub("", text)))


def local_links(text: str) -> set[str]:
    """Targets of links and images that are not web addresses: paths, and #headings."""
    prose = _FENCE.sub("", text)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    return {target for target in targets if not re.match(r"[a-z]+:", target)}


def headings(text: str) -> set[str]:
    """Every heading as a link names it."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> set[str]:
    """Local links of a page to files, folders or headings that do not exist."""
    return {target for target in local_links(page.read_text(encoding="utf-8")) if not _leads_somewhere(page, target)}


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, heading = target.partition("#")
    place = (page.parent / path).resolve() if path else page
    if not place.exists() or not place.is_relative_to(ROOT):
        return False
    return not heading or (place.is_file() and f"#{heading}" in headings(place.read_text(encoding="utf-8")))


def main() -> int:
    before = REFERENCE.read_text()
    after = rewritten(before)
    if "--write" in sys.argv[1:]:
        REFERENCE.write_text(after)
        return 0
    if before != after:
        print(f"{REFERENCE.relative_to(ROOT)} is out of date. Run: python -m tests.readme --write")
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
