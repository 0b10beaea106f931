"""Flags and help of every command. Imports typer and nothing heavy: ``discli --help`` must not wait for torch."""

from discli.cli.app import app
from discli.cli.entry import main

__all__ = ["app", "main"]
