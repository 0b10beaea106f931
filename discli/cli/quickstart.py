"""``discli quickstart``: the whole pipeline once, on digits that the package carries. No network.

digits.png -> a folder of images -> encode -> train -> sample with guidance -> what a person would see. Every
step but the last prints the command that does the same by hand. Killed at any moment, the same command goes on.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discli.cli.app import app
from discli.runtime.console import format_seconds, stderr
from discli.runtime.errors import DiscliError

if TYPE_CHECKING:
    from discli.evaluation.neighbours import Look
    from discli.recipe import Recipe

_DIGITS = Path(__file__).parents[1] / "assets" / "digits.png"
_SIDE = 8


@app.command(epilog="Example: discli quickstart --out quickstart/")
def quickstart(
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything. Default: quickstart/, and the run in runs/quickstart.")
    ] = None,
) -> None:
    """Run every step once, on a CPU, in minutes. Encodes digits, trains, samples with guidance, and looks."""
    took: dict[str, float] = {}
    with _timed("loading PyTorch", took):
        import torch

        from discli.data.encode import encode
        from discli.evaluation.images import open_images
        from discli.evaluation.neighbours import look_at_samples
        from discli.recipe import load_recipe
        from discli.sampling.folder import write_samples
        from discli.sampling.plan import plan_sampling
        from discli.training.train import train

    # Where the other commands look for runs: here, or in `out` if it is given.
    runs = (out or Path()) / "runs"
    out = out or Path("quickstart")
    images, data, samples = out / "digits", out / "digits.h5", out / "samples"
    recipe = load_recipe("quickstart")
    n = recipe.eval.n

    with _timed("encoding", took):
        _announce("1. 1,797 real digits as an image folder, a sub-folder for each class", str(images))
        unpack_digits(images)
        _announce("2. Encode", f"discli encode {images} --res {_SIDE} --out {data}")
        _remove_if_corrupt(data)
        encode(images, _SIDE, codec="rgb", out=data, workers=0)

    with _timed("training", took):
        run = _place_of_run(runs, recipe, data)
        _announce("3. Train a small class-conditional DiS", f"discli train quickstart --data {data} --out {run}")
        train("quickstart", data=data, out=run)

    with _timed("sampling", took):
        _announce("4. Sample with guidance", f"discli sample {run} -n {n} --classes balanced --out {samples}")
        drawn = write_samples(plan_sampling(run, {}, classes="balanced"), n, samples, or_beside=True)

    with _timed("looking", took):
        _announce("5. Look at them: beside real digits, by their nearest neighbours among the rest", str(drawn.folder))
        cpu = torch.device("cpu")
        look = look_at_samples(open_images(drawn.folder, cpu), open_images(data, cpu))
    _print_looks({"drawn": look.samples, "real": look.held_out})

    print(f"\nThe digits that were asked for, a row each: {drawn.sheet}")
    print(f"How they came out of noise while training: {run / 'previews'}")
    parts = ", ".join(f"{what} {seconds:.0f}" for what, seconds in took.items() if seconds >= 1)
    print(f"Took {format_seconds(sum(took.values()))}; seconds: {parts}.")
    print("Next, your own images, in an hour of training on this machine (--minutes for another time):")
    print("  discli encode my-images/ --res 32 --out mine.h5\n  discli recipe new mine --data mine.h5 --minutes 60")
    print("  discli train mine.toml\n  discli sample mine")


def unpack_digits(folder: Path) -> None:
    """Cut the contact sheet into ``folder/<digit>/<number>.png``. The folder is there once all of them are.

    Raises DiscliError where it is there with other files.
    """
    from PIL import Image

    with Image.open(_DIGITS) as sheet:
        counts = [int(count) for count in sheet.info["Counts"].split()]
        names = [f"{digit}/{number:04d}.png" for digit, count in enumerate(counts) for number in range(count)]
        if folder.exists():
            if {str(path.relative_to(folder)) for path in folder.glob("*/*")} == set(names):
                return
            raise DiscliError(f"{folder} holds other files than the digits.", "Remove it, or give another --out.")
        unfinished = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(unfinished, ignore_errors=True)  # of one that was interrupted
        for digit in range(len(counts)):
            (unfinished / str(digit)).mkdir(parents=True)
        columns = sheet.width // _SIDE
        for place, name in enumerate(names):
            row, column = divmod(place, columns)
            box = (column * _SIDE, row * _SIDE, (column + 1) * _SIDE, (row + 1) * _SIDE)
            sheet.crop(box).save(unfinished / name)
    unfinished.rename(folder)


def _remove_if_corrupt(data: Path) -> None:
    """It is made again in a second."""
    from discli.data.store import open_store

    if data.exists():
        try:
            open_store(data)
        except DiscliError as error:
            stderr.print(f"{error.message} It is encoded again.")
            data.unlink()


def _place_of_run(runs: Path, recipe: "Recipe", data: Path) -> Path:
    """``runs``/quickstart; what began there with another recipe, such as an older version's, stays: then a new one."""
    from discli.data.store import open_store
    from discli.runs.layout import RunFolder
    from discli.runs.run import Run

    for number in count(1):
        folder = runs / (recipe.name if number == 1 else f"{recipe.name}-{number}")
        try:
            if not RunFolder(folder).is_running():  # which train says
                Run(folder, recipe, open_store(data).contract, data).check()
        except DiscliError as other:
            stderr.print(f"{other.message} It stays as it is.")
        else:
            return folder
    raise AssertionError("there is always a next number")


def _print_looks(looks: dict[str, "Look"]) -> None:
    """A column each, and what a good value is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for who, look in looks.items():
        table.add_column(f"{look.n} {who}", justify="right")
    rows = {
        "recognised as the digit asked for": [f"{look.recognised:.1%}" for look in looks.values()],
        "variety within a digit (real: 1)": [f"{look.variety or 0:.2f}" for look in looks.values()],
        "copies of a training digit, nearly": [f"{look.memorised:.1%}" for look in looks.values()],
    }
    for what, values in rows.items():
        table.add_row(what, *values)
    Console(highlight=False).print(table)


@contextmanager
def _timed(what: str, took: dict[str, float]) -> Iterator[None]:
    started = time.monotonic()
    yield
    took[what] = time.monotonic() - started


def _announce(step: str, command: str) -> None:
    stderr.print(f"\n{step}", style="bold")
    stderr.print(f"  {command}", style="dim")
