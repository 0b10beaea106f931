"""Errors are lines, whatever they quote."""

import pytest

from discli.runtime.errors import DiscliError, explain_import_error, last_error


def test_what_is_quoted_neither_breaks_the_line_nor_reaches_the_terminal():
    error = DiscliError("found a\nb\x1b[31m\x00\udc80", "x" * 5000)
    assert error.message == "found a b\\x1b[31m\\x00\\udc80"
    assert len(error.hint) < 1100


def raised(message, cause=None):
    try:
        raise RuntimeError(message) from cause
    except RuntimeError as error:
        return error


def test_the_broken_pair_is_explained_with_its_fix_however_deep_it_lies():
    inner = raised("operator torchvision::nms does not exist")
    for error in (inner, raised("Failed to import diffusers.models.autoencoders", inner)):
        explained = explain_import_error(error)
        assert isinstance(explained, DiscliError)
        assert "different package indexes" in explained.message
        assert "same index" in explained.hint
        assert "\n" not in explained.message + explained.hint


def test_other_errors_are_left_alone():
    assert explain_import_error(raised("out of memory")) is None


@pytest.mark.parametrize(
    ("said", "what_and_how"),
    [
        ("loading ...\ndiscli: what is wrong.\n  how to mend it.\n", ("what is wrong.", "how to mend it.")),
        ("discli: what is wrong.\n", ("what is wrong.", "")),
        ("Killed\n", ("Killed", "")),
        ("discli: what is wrong.\n  how to mend it.\nwandb: 3 runs\n", ("what is wrong.", "how to mend it.")),
        ("", ("", "")),
    ],
)
def test_the_last_error_of_another_is_taken_apart(said, what_and_how):
    assert last_error(said) == what_and_how
