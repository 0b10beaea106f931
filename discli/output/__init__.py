"""Where pictures go: a folder of PNGs, one file, or nowhere. All are called alike; see `discli.output.form`."""

from discli.output.background import Background
from discli.output.form import FORMATS, Output, open_output
from discli.output.memory import Memory

__all__ = ["FORMATS", "Background", "Memory", "Output", "open_output"]
