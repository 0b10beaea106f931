"""The one door to torch-fidelity, which brings torchvision with it and may be broken."""

import importlib
from types import ModuleType

from discli.runtime.errors import DiscliError
from discli.runtime.torch_pairing import explain_import_error


def import_torch_fidelity(module: str) -> ModuleType:
    """``torch_fidelity.<module>``; DiscliError where torch and torchvision do not fit each other."""
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except (ImportError, RuntimeError) as error:
        explained = explain_import_error(error)
        if explained is not None:
            raise explained from error
        raise DiscliError(
            f"torch-fidelity cannot be imported: {' '.join(str(error).split())}",
            "Install it: pip install torch-fidelity",
        ) from error
