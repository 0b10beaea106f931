"""Errors are lines, whatever they quote."""

from discli.runtime.errors import DiscliError


def test_what_is_quoted_neither_breaks_the_line_nor_reaches_the_terminal():
    error = DiscliError("found a\nb\x1b[31m\x00\udc80", "x" * 5000)
    assert error.message == "found a b\\x1b[31m\\x00\\udc80"
    assert len(error.hint) < 1100
