"""One common broken installation, explained: torch and torchvision from different package indexes."""

from discli.runtime.errors import DiscliError


def explain_import_error(error: BaseException) -> DiscliError | None:
    """The one line a user needs when torchvision's operators do not fit torch; None for any other error.

    A CPU-only torch beside the registry's torchvision (a CUDA build) fails on ``import torchvision``
    with "operator torchvision::nms does not exist", and with it torch-fidelity and diffusers'
    autoencoders, which may wrap the error in one of their own: the whole chain of causes is searched.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if "torchvision::nms" in str(cause):
            return DiscliError(
                "torch and torchvision come from different package indexes (operator torchvision::nms does not exist).",
                "Install both from the same index: pip install --force-reinstall torch torchvision"
                " (CPU only: add --index-url https://download.pytorch.org/whl/cpu).",
            )
        cause = cause.__cause__ or cause.__context__
    return None
