"""Lets Triton 3.6's interpreter run with numpy 2.4, which no longer makes a number of an array of one."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def interpreter():
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    original = interpreter._patch_lang_tensor

    def patch(tensor, *scope):
        original(tensor, *scope)
        if scope:  # from 3.6 on it is told where to note what it changed
            scope[0].set_attr(tensor, "__index__", lambda self: self.handle.data.item())
        else:
            tensor.__index__ = lambda self: self.handle.data.item()

    interpreter._patch_lang_tensor = patch
