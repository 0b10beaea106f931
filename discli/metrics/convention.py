"""What an Inception score was made with: three published pipelines that seldom agree, by name.

All three take uint8 pictures and run the Inception network of 2015-12-05 on (x - 128) / 128, and none
rounds after the resize to 299 x 299. They differ in that resize (which moves FID), and in how the
Inception Score is split. sFID is ADM's in all of them, for no other has one.
"""

from dataclasses import dataclass
from typing import Literal

from discli.errors import DiscliError
from discli.metrics.inception_score import Splits

Resize = Literal["tf1-bilinear", "pil-bicubic"]


@dataclass(frozen=True)
class Convention:
    """One pipeline; ``says`` is what sets it apart, a line for the score card."""

    name: str
    resize: Resize
    splits: Splits
    says: str


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention(
            "torch-fidelity",
            "tf1-bilinear",
            "ten-shuffled",
            "TensorFlow 1 bilinear resize without antialiasing; IS over 10 shuffled splits",
        ),
        Convention(
            "adm",
            "tf1-bilinear",
            "contiguous-5000",
            "TensorFlow 1 bilinear resize without antialiasing; IS over blocks of 5,000 in order",
        ),
        Convention(
            "clean-fid",
            "pil-bicubic",
            "ten-shuffled",
            "Pillow's antialiased bicubic resize in float, clipped (arXiv:2104.11222);"
            " IS, which clean-fid has not, over 10 shuffled splits",
        ),
    )
}


def find_convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise DiscliError(f"--convention {name}: no such convention.", f"Choose one of {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]
