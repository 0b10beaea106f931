"""What a score was made with: three published pipelines that seldom agree, by name.

All three take 8-bit images and run the Inception network of 2015-12-05 on (x - 128) / 128, and none
rounds after the resize to 299 x 299. They differ in that resize (which moves FID), and in how the
Inception Score is split. sFID is ADM's in all of them, for no other has one.
"""

from dataclasses import dataclass
from typing import Literal

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

    def facts(self, with_inception_score: bool) -> dict[str, str]:
        """What sets it apart, in words, for the score card."""
        said = {"name": self.name, "resize": _RESIZES[self.resize], "quantisation": _QUANTISATIONS[self.resize]}
        return said | ({"inception_score": _SPLITS[self.splits]} if with_inception_score else {})


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
