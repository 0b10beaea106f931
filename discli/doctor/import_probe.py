"""``python -m discli.doctor.import_probe MODULE ...``: a JSON line for each, until one fails."""

import importlib
import importlib.util
import json
import os
import sys
from typing import TextIO

from discli.runtime.torch_pairing import explain_import_error


def main(modules: list[str]) -> None:
    """Stops after a failure: what a broken package left half imported would fail otherwise than on its own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # packages that print while they are imported
    for module in modules:
        if not _answer(module, answers):
            break
    answers.flush()
    os._exit(0)  # no destructors of half-imported libraries


def _answer(module: str, answers: TextIO) -> bool:
    package = module.partition(".")[0]
    answer = {"version": "", "missing": False, "error": "", "remedy": ""}
    try:
        if module.endswith("_cuda") and importlib.util.find_spec(module):
            importlib.import_module("torch")  # such modules link to its libraries, and cannot find them
        importlib.import_module(module)
        answer["version"] = str(getattr(sys.modules[package], "__version__", ""))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            answer["missing"] = True
        else:
            known = explain_import_error(error)
            own = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            answer |= {"error": known.message if known else own, "remedy": known.hint if known else ""}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return not answer["error"]


if __name__ == "__main__":
    main(sys.argv[1:])
