"""Conventions: three published pipelines that seldom agree, by name, and their two resizes.

All three take 8-bit images and run the Inception network of 2015-12-05 on (x - 128) / 128, and none
rounds after the resize to 299 x 299. They differ in that resize (which moves FID), and in how the
Inception Score is split. sFID is ADM's in all of them, for no other has one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from discli.runs.eval_result import ConventionFacts
from discli.runtime.errors import DiscliError

Resize = Literal["tf1-bilinear", "pil-bicubic"]
Splits = Literal["ten-shuffled", "contiguous-5000"]

_RESIZES = {
    "tf1-bilinear": "TensorFlow 1's bilinear, without antialiasing",
    "pil-bicubic": "Pillow's antialiased bicubic (arXiv:2104.11222)",
}
_QUANTISATIONS = {
    "tf1-bilinear": "8-bit images, resized in float32, not rounded",
    "pil-bicubic": "8-bit images, resized in float32, clipped to 0..255, not rounded",
}
_SPLITS = {"ten-shuffled": "mean over 10 shuffled splits", "contiguous-5000": "mean over blocks of 5,000 in order"}


@dataclass(frozen=True)
class Convention:
    """One pipeline."""

    name: str
    resize: Resize
    splits: Splits

    def facts(self, with_inception_score: bool) -> ConventionFacts:
        """What sets it apart, in words, for the score card."""
        return ConventionFacts(
            name=self.name,
            resize=_RESIZES[self.resize],
            quantisation=_QUANTISATIONS[self.resize],
            inception_score=_SPLITS[self.splits] if with_inception_score else None,
        )


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("torch-fidelity", "tf1-bilinear", "ten-shuffled"),
        Convention("adm", "tf1-bilinear", "contiguous-5000"),
        Convention("clean-fid", "pil-bicubic", "ten-shuffled"),  # clean-fid itself has no Inception Score
    )
}


def find_convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise DiscliError(f"--convention {name}: no such convention.", f"Choose one of {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]


def resize(x_BCHW: Tensor, side: int, how: Resize) -> Tensor:
    """(B, 3, H, W) float32 in 0..255 to (B, 3, side, side), unrounded. FID moves by whole points between the two."""
    if how == "tf1-bilinear":
        return _tf1_bilinear(_tf1_bilinear(x_BCHW, side, 3), side, 2)
    # With antialiasing torch computes Pillow's bicubic (a = -0.5), on floats as clean-fid does.
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)


def _tf1_bilinear(x: Tensor, side: int, axis: int) -> Tensor:
    """TensorFlow 1's ``resize_bilinear``, along one axis: output i lies at i * scale, not at pixel centres.

    The same sums as torch-fidelity's, bit for bit, at half the cost: columns before rows are repeated.
    """
    place = torch.arange(side, dtype=torch.float32, device=x.device)
    place = place * torch.tensor(x.shape[axis] / side, dtype=torch.float32)
    low = place.long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    weight = (place - low.float()).view((-1, 1) if axis == 2 else (-1,))
    below, above = x.index_select(axis, low), x.index_select(axis, high)
    return below + (above - below) * weight
