"""``discli teacher``: a small classifier trained on a data file's own labels, whose features align a diffusion model.

It needs no weights from elsewhere: what it knows is in the file. Held-out images say how well it recognises
classes. A teacher is kept by the content that it was trained on, so that asking again trains nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from discli.data.grids import FIRST, FOLDER, Features, write_grid
from discli.data.store import Store
from discli.evaluation.reference import cache_folder
from discli.recipe.contract import OWN_TEACHER, FeatureGrid
from discli.recipe.size import Size
from discli.runtime.console import progress, stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_beside
from discli.runtime.plugins import plugins
from discli.runtime.rng import RngStream, permutation, uniform

_FORMAT = "discli-teacher/1"  # a new one whenever the same file and settings give other weights
_CHANNELS, _SMALLEST_SIDE = 128, 8  # of the grid
_BATCH, _LR, _WEIGHT_DECAY, _WARMUP = 128, 2e-3, 0.05, 0.1
_MOST_IMAGES, _MOST_EPOCHS = 300_000, 40
_FEWEST = 20  # images, of which two are held out
_SEEN_AT_ONCE = 128
_HASHED_AT_ONCE = 1 << 26  # bytes


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside the identity (arXiv:1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Classifier(nn.Module):
    """(B, C, H, W) in the diffusion model's space to (B, classes); ``grid`` is what it knows of each place.

    Halves the image until 8 to 15 vectors along its shorter side are left, with a residual block at each size.
    """

    def __init__(self, in_channels: int, size: Size, classes: int) -> None:
        super().__init__()
        halvings = max(0, (min(size) // _SMALLEST_SIDE).bit_length() - 1)
        layers: list[nn.Module] = []
        for index in range(max(1, halvings)):
            width = max(32, _CHANNELS >> max(0, halvings - 1 - index))
            layers += [_conv(in_channels, width, 2 if halvings else 1), nn.ReLU(), Residual(width)]
            in_channels = width
        self.stages = nn.Sequential(*layers)
        self.top = _conv(in_channels, 2 * _CHANNELS, 2)
        self.head = nn.Linear(2 * _CHANNELS, classes)

    def grid(self, x: Tensor) -> Tensor:
        """(B, 128, rows, columns)."""
        found: Tensor = self.stages(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(F.relu(self.top(self.grid(x))).mean(dim=(2, 3)))
        return scores


def teach(
    data: str | Path,
    *,
    name: str = OWN_TEACHER,
    epochs: int | None = None,
    seed: int = 0,
    flip: bool = True,
    device: str | None = None,
) -> FeatureGrid:
    """Trains a teacher on the labels of a data file, stores its features there, and says what the file then holds.

    ``epochs``: by default so many that it sees 300,000 images, and 40 at most. ``flip``: trained on mirrored images
    too. A tenth is held out. Equal arguments give equal features on one machine. Raises DiscliError for a file
    without labels, with one class or too few images, and where features of that name are there already.
    """
    path = Path(data)
    if not re.fullmatch(r"[\w.+-]+", name) or name in plugins(FOLDER, FIRST):
        raise DiscliError(
            f"--name {name}: not a teacher's.", "Use letters, digits, . _ + and -, and no network's name."
        )
    store = Store(path)
    if store.shapes is not None:
        raise DiscliError(f"{path} holds images of several shapes, and a teacher sees one.", "Encode one shape.")
    _check(store)
    where = pick_device(device)
    kept = len(store) - len(store) // 10
    epochs = epochs or min(_MOST_EPOCHS, max(1, round(_MOST_IMAGES / kept)))
    lessons = Lessons(store, seed, flip=flip, device=where)
    mirrored = "" if lessons.flip else ", not mirrored"
    about = f"a residual classifier trained {epochs:,} epochs on this file's labels{mirrored}, seed {seed}"
    if (held := store.contract.grid(name)) is not None:
        if held.network == about:
            stderr.print(f"{path} has the features of {name} already.")
            return held
        raise DiscliError(f"{path} holds features called {name} already: {held.network}.", "Give these another --name.")
    settings = {"format": _FORMAT, "epochs": epochs, "seed": seed, "flip": lessons.flip, "content": _content(store)}
    file = cache_folder().parent / "teachers" / f"{_sha256(json.dumps(settings, sort_keys=True).encode())}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        contract = store.contract
        network = Classifier(contract.codec.channels, contract.input_size, contract.num_classes).to(where)
    accuracy = _kept(file, network)
    if accuracy is None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            optimizer = torch.optim.AdamW(network.parameters(), _LR, weight_decay=_WEIGHT_DECAY, fused=True)
            learn(network, lessons, epochs, [optimizer])
            accuracy = share_recognised(network, lessons)
        _keep(file, network, accuracy)
    else:
        stderr.print(f"The teacher of these images is kept: {file}")
    network.eval().to(memory_format=torch.channels_last)  # as it was trained: other kernels round otherwise
    stderr.print(f"It recognises {accuracy:.1%} of {len(lessons.held_out):,} images held out.")

    def see(rows: range) -> Features:
        with torch.inference_mode():
            images = lessons.images(np.arange(rows.start, rows.stop)).contiguous(memory_format=torch.channels_last)
            features: Features = network.grid(images).permute(0, 2, 3, 1).half().cpu().numpy()
        return features

    grid = FeatureGrid(
        name=name,
        network=about,
        weights_sha256=_sha256_of(network),
        input_size=store.contract.resolution,
        side=Size(*see(range(1)).shape[1:3]),
        channels=_CHANNELS,
        accuracy=accuracy,
    )
    write_grid(path, grid, see, _SEEN_AT_ONCE)
    return grid


class Lessons:
    """The file's images for a classifier: what is held out, batches of the rest in an order by seed."""

    def __init__(
        self, store: Store, seed: int, *, flip: bool = True, device: torch.device | str = "cpu", batch: int = _BATCH
    ) -> None:
        assert store.labels is not None
        self._store, self._seed, self._device, self.batch = store, seed, device, batch
        self.flip = flip and store.contract.can_flip
        self._labels = torch.from_numpy(store.labels)
        order = permutation(seed, 0, len(store)).numpy()
        self.held_out, self.rest = order[: len(store) // 10], order[len(store) // 10 :]

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-len(self.rest) // self.batch)

    def images(self, indices: npt.NDArray[np.int64], mirrored: npt.NDArray[np.bool_] | None = None) -> Tensor:
        """(b, C, H, W) as the diffusion model sees them; of latents the mean."""
        return self._store.contract.codec.to_model_space(self._store.read(indices, mirrored).to(self._device))

    def labels(self, indices: npt.NDArray[np.int64]) -> Tensor:
        return self._labels[indices].to(self._device)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, moved by up to an eighth and, where it is wanted, mirrored; and labels. Epochs count from 0."""
        order = self.rest[permutation(self._seed, epoch + 1, len(self.rest)).numpy()]
        for number in range(self.steps):
            indices = order[number * self.batch : (number + 1) * self.batch]
            slots = torch.arange(len(indices))
            drawn = uniform(self._seed, RngStream.FLIP, epoch * self.steps + number, slots, (3,))
            mirrored = (drawn[:, 0] < 0.5).numpy() if self.flip else None
            yield _moved(self.images(indices, mirrored), drawn[:, 1:]), self.labels(indices)


def _moved(images: Tensor, fractions: Tensor) -> Tensor:
    """Each image at a place of its own, up to an eighth away; edges are repeated."""
    height, width = images.shape[-2:]
    most = min(height, width) // 8
    if not most:
        return images
    padded = F.pad(images, (most,) * 4, mode="replicate")
    places = (fractions * (2 * most + 1)).long().tolist()
    cut = [one[:, top : top + height, left : left + width] for one, (top, left) in zip(padded, places, strict=True)]
    return torch.stack(cut)


def learn(
    network: nn.Module,
    lessons: Lessons,
    epochs: int,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    first: int = 0,
    after_epoch: Callable[[int], None] = lambda _epoch: None,
) -> None:
    """Trains a classifier: learning rates go up and then linearly to zero, from those that the optimizers have.

    Those are kept as ``peak_lr`` of their groups, where ``after_epoch`` may change them.
    ``first``: the epoch to go on from, of a network and optimizers that were restored.
    """
    steps = epochs * lessons.steps
    warmup = max(1, round(_WARMUP * steps))
    groups = [group for each in optimizers for group in each.param_groups]
    for group in groups:
        group.setdefault("peak_lr", group["lr"])
    network.train().to(memory_format=torch.channels_last)
    with progress("teacher", steps, "steps", first * lessons.steps, (lessons.batch, "images")) as ticker:
        for epoch in range(first, epochs):
            for number, (images, labels) in enumerate(lessons.batches(epoch)):
                step = epoch * lessons.steps + number
                for group in groups:
                    group["lr"] = group["peak_lr"] * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
                scores = network(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(scores, labels, label_smoothing=0.1)
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                ticker.advance(1, f"loss {loss.item():.3f}" if step % 20 == 0 else "")
            after_epoch(epoch)
            network.train()
    network.eval()


def share_recognised(network: nn.Module, lessons: Lessons) -> float:
    """Of the images held out; the network is left in evaluation mode."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(lessons.held_out), _SEEN_AT_ONCE):
            indices = lessons.held_out[start : start + _SEEN_AT_ONCE]
            right += int((network(lessons.images(indices)).argmax(1) == lessons.labels(indices)).sum())
    return right / len(lessons.held_out)


def _conv(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width))


def _check(store: Store) -> None:
    if store.labels is None:
        raise DiscliError(
            f"{store.path} has no labels, on which a teacher is trained.",
            f"Take one that is: discli encode {store.path} --features efficientnet-lite0; or encode class folders.",
        )
    if len(classes := np.unique(store.labels)) < 2:
        raise DiscliError(
            f"{store.path} has images of {len(classes)} class, and a teacher learns to tell classes apart.",
            f"Take one that is trained: discli encode {store.path} --features efficientnet-lite0",
        )
    if len(store) < _FEWEST:
        raise DiscliError(
            f"{store.path} holds {len(store)} images, too few for a teacher: {_FEWEST} at least.",
            "Encode more of them.",
        )


def _content(store: Store) -> str:
    """Of images and labels."""
    assert store.labels is not None
    found = hashlib.sha256(store.labels.tobytes())
    step = max(1, _HASHED_AT_ONCE // max(1, store.rows[:1].nbytes))
    for start in range(0, len(store), step):
        found.update(np.ascontiguousarray(store.rows[start : start + step]).data)
    return found.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha256_of(network: nn.Module) -> str:
    state = network.state_dict()
    return _sha256(b"".join(name.encode() + state[name].cpu().contiguous().numpy().tobytes() for name in sorted(state)))


def _keep(file: Path, network: nn.Module, accuracy: float) -> None:
    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    about = {"format": _FORMAT, "accuracy": repr(accuracy), "sha256": _sha256_of(network)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_beside(file, lambda temporary: save_file(state, temporary, metadata=about))
    except OSError as error:
        stderr.print(f"The teacher is not kept: {error}")


def _kept(file: Path, network: nn.Module) -> float | None:
    """Fills the network, and gives its accuracy; None where it is not there, or not whole."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
        network.load_state_dict(load_file(file))
        accuracy = float(about["accuracy"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
        return None
    return accuracy if _sha256_of(network) == about.get("sha256") else None
