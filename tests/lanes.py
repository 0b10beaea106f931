"""One pytest beside another, each file of tests in whichever comes to it first.

    python -m pytest -p tests.lanes --taken=FOLDER &
    python -m pytest -p tests.lanes --taken=FOLDER

Set OMP_NUM_THREADS=1: threads of two processes on the same cores wait for one another most of the time.
"""

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--taken", type=Path, required=True, help="folder in which files of tests are marked as taken")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if session.testsfailed or session.config.option.collectonly:
        return None  # pytest's own loop says so, or lists them
    taken = session.config.getoption("taken")
    taken.mkdir(parents=True, exist_ok=True)
    # Lazily: the next file is taken when the last test of this one is about to run.
    for item, after in pairwise(chain(mine(session.items, taken), [None])):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
    return True


def mine(items: list[pytest.Item], taken: Path) -> Iterator[pytest.Item]:
    """The tests of files that nobody has taken yet; long files first, so that all end together."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:  # those of a file need not be neighbours: pytest puts together what shares a fixture's parameter
        files.setdefault(item.path, []).append(item)
    for path, tests in sorted(files.items(), key=lambda file: len(file[1]), reverse=True):
        try:
            # By its path: names of tests depend on what pytest takes for the root, and it takes a word for a folder.
            (taken / str(path).replace("/", "+")).mkdir()
        except FileExistsError:
            continue
        yield from tests
