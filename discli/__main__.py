"""``python -m discli``."""

from discli.cli import main

main()
