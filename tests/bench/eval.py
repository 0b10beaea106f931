"""eval-fid against torch-fidelity's own command line: the same folders, weights and features, one after the other.

    python -m tests.bench.eval IMAGES [--n 200] [--res 256] [--weights PATH] [--rounds 1]

IMAGES is a folder or archive (``../shared/data/imagenet-sample.zip`` holds 400). They are cropped and
written as two folders of n PNGs, turned and mirrored where they have to serve again, eight times at most;
both programs then compute the FID between the folders in a process of their own, start included, which
weighs less the larger n is. Without ``--weights`` Inception is random, which costs the same.

``--against TREE`` compares with the ``discli eval-fid`` of another checkout instead of with torch-fidelity.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from discli.data.images import crop, decode
from discli.data.sources import open_source
from discli.evaluation.features.inception import bare_inception
from discli.recipe.size import Size
from tests.bench.against import HERE, Seconds, alternate, discli, processor_seconds

OURS = "import sys, json, pathlib; from discli.evaluation.evaluate import evaluate;"
OURS += " a, b, w = map(pathlib.Path, sys.argv[1:]);"
OURS += " print(evaluate(a, b, weights=w, bootstrap=0, cache=False, device='cpu').model_dump_json())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--res", type=int, default=256)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, metavar="TREE")
    flags = parser.parse_args()

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_folders(flags.images, flags.n, flags.res, Path(scratch))
        weights = flags.weights or random_weights(Path(scratch) / "inception.pth")
        if flags.against:
            against(flags.against, folders, weights, flags.rounds)
            return
        for _ in range(flags.rounds):
            compare(folders, weights, flags.n)


def compare(folders: tuple[Path, Path], weights: Path, n: int) -> None:
    first, second = map(str, folders)
    theirs = ["-m", "torch_fidelity.fidelity", "--cpu", "--fid", "--json", "--silent", "--input1", first]
    theirs += ["--input2", second, "--feature-extractor", "inception-v3-compat"]
    theirs += ["--feature-extractor-weights-path", str(weights)]
    seconds, busy, fids = {}, {}, {}
    for name, arguments in (("torch-fidelity", theirs), ("discli", ["-c", OURS, first, second, str(weights)])):
        started, before = time.perf_counter(), processor_seconds()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        seconds[name], busy[name] = time.perf_counter() - started, processor_seconds() - before
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        found = json.loads(done.stdout)
        fids[name] = found["distance"] if "distance" in found else found["frechet_inception_distance"]
    for name in seconds:
        took = f"{seconds[name]:7.1f} s, {busy[name]:.1f} s of processor"
        print(f"{name:15} {took}, {2 * n / seconds[name]:.1f} images/s, FID {fids[name]:.6g}")
    print(f"discli is {seconds['torch-fidelity'] / seconds['discli']:.2f} times as fast")


def against(tree: Path, folders: tuple[Path, Path], weights: Path, rounds: int) -> None:
    first, second = folders
    options = ["--ref", second, "--weights", weights, "--bootstrap", 0, "--no-cache", "--device", "cpu", "--json"]
    distances = {}

    def score(which: Path) -> Seconds:
        took, printed = discli(which, ["eval-fid", first, *options], first.parent)
        distances[which] = json.loads(printed)["distance"]
        return took

    alternate({"there": lambda: score(tree), "here": lambda: score(HERE)}, rounds, "there")
    print(f"FID {distances[tree]:.9g} there, {distances[HERE]:.9g} here")


def write_folders(source: Path, n: int, res: int, scratch: Path) -> tuple[Path, Path]:
    images = open_source(source, "none")
    if 8 * len(images) < 2 * n:
        sys.exit(f"{source} holds {len(images)} images, which make 8 each at most, fewer than 2 x {n}")
    folders = (scratch / "a", scratch / "b")
    for folder in folders:
        folder.mkdir()
    for index in range(2 * n):
        turn, image = divmod(index, len(images))
        pixels = crop(decode(images.read(image)), Size.square(res), "adm")
        turned = np.rot90(pixels if turn < 4 else pixels[:, ::-1], turn)
        Image.fromarray(np.ascontiguousarray(turned)).save(folders[index % 2] / f"{index:06d}.png")
    return folders


def random_weights(path: Path) -> Path:
    torch.manual_seed(0)
    network = bare_inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path


if __name__ == "__main__":
    main()
