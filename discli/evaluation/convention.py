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
    """(B, 3, H, W) in 0..255 to (B, 3, side, side) float32, unrounded. FID moves by whole points between the two."""
    if how == "tf1-bilinear":
        # One after the other, images stay in a core's cache; a GPU wants them all.
        pieces = x_BCHW.split(1 if x_BCHW.device.type == "cpu" else len(x_BCHW))
        return torch.cat([_tf1_bilinear(piece, side) for piece in pieces]).permute(0, 3, 1, 2)
    # With antialiasing torch computes Pillow's bicubic (a = -0.5), on floats as clean-fid does.
    return F.interpolate(x_BCHW.float(), size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)


def _tf1_bilinear(x_BCHW: Tensor, side: int) -> Tensor:
    """TensorFlow 1's ``resize_bilinear``, (B, side, side, 3): output i lies at i * scale, not at pixel centres.

    The same sums as torch-fidelity's, bit for bit, at a quarter of the cost: along columns before rows
    are repeated, and always along the outermost axis, where whole lines are copied.
    """
    x_WHBC = x_BCHW.permute(3, 2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    x_HWBC = _tf1_bilinear_lines(x_WHBC, side).transpose(0, 1).contiguous()
    return _tf1_bilinear_lines(x_HWBC, side).permute(2, 0, 1, 3)


def _tf1_bilinear_lines(x: Tensor, side: int) -> Tensor:
    place = torch.arange(side, dtype=torch.float32, device=x.device)
    place = place * torch.tensor(len(x) / side, dtype=torch.float32)
    low = place.long()
    high = (low + 1).clamp(max=len(x) - 1)
    weight = (place - low.float()).view(-1, 1, 1, 1)
    below, above = x.index_select(0, low), x.index_select(0, high)
    return above.sub_(below).mul_(weight).add_(below)
