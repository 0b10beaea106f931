"""``discli quickstart``: the whole pipeline once, on digits that the package carries. No network.

digits.png -> a folder of images -> encode -> train -> sample with guidance -> score. Every step
prints the command that does the same by hand.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import app
from discli.runtime.console import stderr

_DIGITS = Path(__file__).parents[1] / "assets" / "digits.png"
_SIDE = 8


@app.command(epilog="Example: discli quickstart --out quickstart/")
def quickstart(
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything. Default: quickstart/, and the run in runs/quickstart.")
    ] = None,
) -> None:
    """Run every step once, in a few minutes on a CPU: encode digits, train, sample with guidance, score."""
    from discli.cli.scores_table import print_scores
    from discli.data.encode import encode
    from discli.evaluation.evaluate import evaluate
    from discli.recipe import load_recipe
    from discli.sampling.sample import sample
    from discli.training.train import train

    # Where the other commands look for runs: here, or in `out` if it is given.
    run = (out or Path()) / "runs" / "quickstart"
    out = out or Path("quickstart")
    images, data, samples = out / "digits", out / "digits.h5", out / "samples"
    recipe = load_recipe("quickstart")

    _announce("1. 1,797 real digits as an image folder, one sub-folder a class", str(images))
    if not images.exists():
        unpack_digits(images)

    _announce("2. Encode", f"discli encode {images} --res 8 --out {data}")
    if not data.exists():
        encode(images, 8, codec="rgb", out=data)

    _announce("3. Train a small class-conditional DiS", f"discli train quickstart --data {data} --out {run}")
    train("quickstart", data=data, out=run)

    _announce("4. Sample with guidance", f"discli sample {run} -n {recipe.eval.n} --classes balanced --out {samples}")
    sample(run, recipe.eval.n, classes="balanced", out=samples)

    _announce("5. Score", f"discli eval-fid {samples} --features random")
    print_scores(evaluate(samples, features="random"))

    sheet = samples.with_name(samples.name + ".png")
    print(f"\nThe digits that were asked for, a row each: {sheet}")
    print(f"How they came out of noise while training: {run / 'previews'}")
    print("Next, your own images, in an hour of training on this machine (--minutes for another time):")
    print("  discli encode my-images/ --res 32 --out mine.h5\n  discli recipe new mine --data mine.h5 --minutes 60")
    print("  discli train mine.toml\n  discli sample mine")


def unpack_digits(folder: Path) -> None:
    """Cut the contact sheet into ``folder/<digit>/<number>.png``. The folder is there once all of them are."""
    from PIL import Image

    unfinished = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(unfinished, ignore_errors=True)  # of one that was interrupted
    with Image.open(_DIGITS) as sheet:
        counts = [int(count) for count in sheet.info["Counts"].split()]
        columns = sheet.width // _SIDE
        place = 0
        for digit, count in enumerate(counts):
            (unfinished / str(digit)).mkdir(parents=True)
            for number in range(count):
                row, column = divmod(place, columns)
                box = (column * _SIDE, row * _SIDE, (column + 1) * _SIDE, (row + 1) * _SIDE)
                sheet.crop(box).save(unfinished / str(digit) / f"{number:04d}.png")
                place += 1
    unfinished.rename(folder)


def _announce(step: str, command: str) -> None:
    stderr.print(f"\n{step}", style="bold")
    stderr.print(f"  {command}", style="dim")
