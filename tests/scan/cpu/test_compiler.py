"""Kernels are compiled also where they cannot be kept."""

import errno

import pytest

pytest.importorskip("numba")

from discli.scan.cpu import compiler


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no locator"), OSError(errno.ENOSPC, "No space left on device"), EOFError("Ran out of input")],
)
def test_a_cache_that_cannot_be_used_stops_nobody(error, monkeypatch):
    def cfunc(signature, cache=False, **options):
        def compile_function(function):
            if cache:
                raise error
            return signature, function

        return compile_function

    monkeypatch.setattr(compiler, "cfunc", cfunc)
    monkeypatch.setattr(compiler, "_functions", [])
    monkeypatch.setattr(compiler, "_libraries", [])
    assert compiler.entry("void()", cache=True)(len) == ("void()", len)
