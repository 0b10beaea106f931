"""Where images go: a folder of PNGs, one file, or nowhere. All are called alike; see `form`."""

from discli.sampling.output.background import Background
from discli.sampling.output.form import FORMATS, Output, open_output
from discli.sampling.output.memory import Memory

__all__ = ["FORMATS", "Background", "Memory", "Output", "open_output"]
