"""What distances and recognised shares say of images spoiled on purpose, and how fast EfficientNet-Lite0 is.

    python -m tests.bench.features DATA.h5 [--reference 30000] [--n 500] [--run RUN] [--keep FOLDER]
    python -m tests.bench.features --speed

DATA.h5 holds images with classes (CIFAR-10 in the evaluation room's table). Samples are ``n`` of its images that the
reference does not hold, spoiled in one way each; they come from the tenth that `discli teacher` and the CIFAR-10
classifier hold out (seed 0). ``--run``: samples of that run's checkpoints too, and how each distance ranks them beside
the losses of trained and held-out images. Features and samples are kept in FOLDER: asked again, it goes on.
``--speed`` times the network beside the package ``efficientnet-lite-pytorch`` (0.1.0), where it can be imported:
processor time of one thread, alternately, the least of several rounds.
"""

import argparse
import io
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from discli import sample
from discli.data.features.efficientnet_lite0 import EfficientNetLite0, find_weights
from discli.evaluation.extractor import Extractor, load_extractor
from discli.evaluation.frechet import FrechetTo
from discli.evaluation.images import open_images
from discli.evaluation.moments import Moments
from discli.evaluation.probe import Probe, ProbeFit, wilson
from discli.reports.fit import floor_of_run, loss_gap
from discli.runs.layout import RunFolder
from discli.runs.status import run_status
from discli.runtime.files import write_beside
from discli.runtime.rng import permutation

NETWORKS = ("cifar10", "efficientnet-lite0", "random")
Spoiled = tuple[Tensor, Tensor]  # images (n, 3, H, W) uint8, and the class each was asked for


class Judge(NamedTuple):
    extractor: Extractor
    reference: FrechetTo
    probe: Probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--reference", type=int, default=30_000)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--keep", type=Path, default=Path("bench-features"))
    parser.add_argument("--speed", action="store_true")
    flags = parser.parse_args()
    if flags.speed or flags.data is None:
        speed()
    else:
        table(flags.data, flags.reference, flags.n, flags.run, flags.keep)


def table(data: Path, n_reference: int, n: int, run: Path | None, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    drawn = drawn_by(run, n, keep) if run is not None else {}
    images = open_images(data, torch.device("cpu"), with_labels=True)
    assert images.labels is not None
    order, held_out = permutation(0, 0, images.n), images.n // 10
    rest, chosen = sorted(order[:held_out].tolist()), sorted(order[held_out:][:n_reference].tolist())
    others, classes = torch.cat(list(images.batches(rest, 1000))), images.labels[rest].long()
    judges = {}
    for name in NETWORKS:
        extractor = load_extractor(name, None, None, torch.device("cpu"))
        reference = rows_of(images.batches(chosen, 64), f"reference-{len(chosen)}", extractor, keep)
        judges[name] = judge_of(extractor, reference, images.labels[chosen])
        real = judges[name].probe.confusion
        right, seen = int(real.diagonal().sum()), int(real.sum())
        print(f"{extractor.score_name('FID')}: held-out images of the reference recognised {share(right, seen)}")
    print(f"\n| {n:,} samples |" + "".join(f" FD ({name}) | recognised |" for name in judges))
    print("|---|" + "---|---|" * len(judges))
    distances: dict[str, dict[str, float]] = {name: {} for name in judges}
    for what, (samples, asked) in (ways(others, classes, n) | drawn).items():
        line = ""
        for name, judge in judges.items():
            rows = rows_of(samples.split(64), f"{what.replace('/', ' in ')}-{n}", judge.extractor, keep)
            distances[name][what], recognised = judged(rows, asked, judge)
            line += f" {distances[name][what]:.4g} | {recognised} |"
        print(f"| {what} |{line}", flush=True)
    print("\nRank correlation of the distances over all rows:")
    for name, other in itertools.combinations(judges, 2):
        found = spearman(list(distances[name].values()), list(distances[other].values()))
        print(f"- {name} and {other}: {found:.2f}")
    if run is not None:
        beside_losses(run, {name: {what: of[what] for what in drawn} for name, of in distances.items()})


def rows_of(batches: Iterable[Tensor], what: str, extractor: Extractor, keep: Path) -> Tensor:
    """(n, D) features, from ``keep`` where they were computed before."""
    file = keep / f"{extractor.name}-{extractor.weights_sha256[:8]}" / f"{what}.npy"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        rows = torch.cat([extractor(batch)["features"] for batch in batches]).numpy()
        write_beside(file, lambda temporary: np.save(temporary.open("wb"), rows))
    return torch.from_numpy(np.load(file))


def judge_of(extractor: Extractor, rows: Tensor, labels: Tensor) -> Judge:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    fit = ProbeFit(labels, int(labels.max()) + 1, rows.shape[1])
    fit.update(rows, 0)
    return Judge(extractor, FrechetTo(moments.gaussian()), fit.fit())


def judged(rows: Tensor, asked: Tensor, judge: Judge) -> tuple[float, str]:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    right = int((judge.probe(rows).argmax(dim=1) == asked).sum())
    return judge.reference.distance(moments.gaussian()), share(right, len(rows))


def drawn_by(run: Path, n: int, keep: Path) -> dict[str, Spoiled]:
    """Of each checkpoint of a run, in the order of their steps; those drawn before are not drawn again."""
    found = {}
    for checkpoint in RunFolder(run).find_checkpoints():
        file = keep / f"{run.name}-{checkpoint.name}-{n}.npz"
        if not file.exists():
            drawn = sample(checkpoint, n, classes="balanced")
            arrays = {"pixels": drawn.pixels.numpy(), "classes": np.array(drawn.classes)}
            write_beside(file, lambda temporary, arrays=arrays: np.savez(temporary.open("wb"), **arrays))
        with np.load(file) as arrays:
            found[f"a run at step {int(checkpoint.name):,}"] = tuple(map(torch.from_numpy, arrays.values()))
    return found


def beside_losses(run: Path, distances: dict[str, dict[str, float]]) -> None:
    """How the distances rank a run's checkpoints, beside its losses: 1 is the same order, -1 the opposite."""
    status = run_status(run)
    floor = floor_of_run(status)
    lines = {f"a run at step {line['step']:,}": line for line in status.logs["holdout"]}
    steps = [what for what in next(iter(distances.values())) if what in lines]
    losses = {"held-out loss": [lines[what]["loss_held_out"] for what in steps]}
    if floor is not None:
        losses["loss gap"] = [loss_gap(lines[what], floor).gap for what in steps]
    for what, values in losses.items():
        print(f"\n{what}: " + ", ".join(f"{value:.4f}" for value in values))
        for name, of in distances.items():
            print(f"- rank correlation with {name}: {spearman(values, [of[each] for each in steps]):.2f}")


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    def ranks(values: Sequence[float]) -> np.ndarray:  # of equal ones the mean
        x = np.asarray(values)
        return np.array([(x < each).sum() + (x == each).sum() / 2 for each in x])

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def share(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f}% ({100 * low:.0f} to {100 * high:.0f})"


def ways(others: Tensor, classes: Tensor, n: int) -> dict[str, Spoiled]:
    """By what was done to them."""
    random = torch.Generator().manual_seed(0)
    pick = torch.randperm(len(others), generator=random)
    x, y = others[pick[:n]], classes[pick[:n]]
    more, more_classes = others[pick[n : 2 * n]], classes[pick[n : 2 * n]]
    kinds = int(classes.max()) + 1

    def of_classes(some: int) -> Spoiled:
        wanted = pick[classes[pick] < some][:n]
        return others[wanted], classes[wanted]

    return {
        "untouched": (x, y),
        "another choice, untouched": (more, more_classes),
        **{f"noise of {levels} levels": (noisy(x, levels, random), y) for levels in (10, 30)},
        **{f"shrunk to 1/{factor} and enlarged": (blurred(x, factor), y) for factor in (2, 4)},
        **{f"JPEG of quality {quality}": (jpeg(x, quality), y) for quality in (50, 20, 5)},
        "half of them under another class's name": (x, torch.where(torch.arange(n) % 2 == 0, y, (y + 1) % kinds)),
        "each blended half and half with another": ((x.float() / 2 + more.float() / 2).round().to(torch.uint8), y),
        "half the classes missing": of_classes(kinds // 2),
        "two classes only": of_classes(2),
        f"{n // 10} images, each ten times": (x[: n // 10].repeat(10, 1, 1, 1), y[: n // 10].repeat(10)),
        "colours reversed": (255 - x, y),
        "quarters of the image exchanged": (torch.roll(x, (x.shape[2] // 2, x.shape[3] // 2), (2, 3)), y),
    }


def noisy(x: Tensor, levels: float, random: torch.Generator) -> Tensor:
    return (x.float() + levels * torch.randn(x.shape, generator=random)).round().clamp(0, 255).to(torch.uint8)


def blurred(x: Tensor, factor: int) -> Tensor:
    small = F.interpolate(x.float(), scale_factor=1 / factor, mode="bicubic", antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode="bicubic").round().clamp(0, 255).to(torch.uint8)


def jpeg(x: Tensor, quality: int) -> Tensor:
    found = []
    for image in x:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(found)


def speed() -> None:
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    ours = EfficientNetLite0()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(find_weights())).eval()
    for side in (128, 224):
        x = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

        def package(x: Tensor = x) -> Tensor:
            with torch.inference_mode():
                return theirs.extract_features((x.float() - 127) / 128).mean(dim=(2, 3))

        def own(x: Tensor = x, side: int = side) -> Tensor:
            return ours(x, side).features

        gap = float((own() - package()).abs().max() / package().abs().max())
        times = least({"discli": own, "efficientnet-lite-pytorch": package})
        rates = ", ".join(f"{name} {len(x) / seconds:.0f}" for name, seconds in times.items())
        ratio = times["efficientnet-lite-pytorch"] / times["discli"]
        print(f"{side} px, images/s of one core: {rates}; {ratio:.2f} times as fast, values within {gap:.1g}")


def least(calls: dict[str, Callable[[], Tensor]], rounds: int = 12) -> dict[str, float]:
    """Processor seconds of this thread."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.thread_time()
            call()
            found[name] = min(found[name], time.thread_time() - started)
    return found


if __name__ == "__main__":
    main()
