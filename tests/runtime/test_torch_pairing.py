"""The one line about torch and torchvision from different indexes."""

from discli.runtime.errors import DiscliError
from discli.runtime.torch_pairing import explain_import_error


def raised(message, cause=None):
    try:
        raise RuntimeError(message) from cause
    except RuntimeError as error:
        return error


def test_the_broken_pair_is_explained_with_its_remedy_however_deep_it_lies():
    inner = raised("operator torchvision::nms does not exist")
    for error in (inner, raised("Failed to import diffusers.models.autoencoders", inner)):
        explained = explain_import_error(error)
        assert isinstance(explained, DiscliError)
        assert "different package indexes" in explained.message
        assert "same index" in explained.hint
        assert "\n" not in explained.message + explained.hint


def test_other_errors_are_left_alone():
    assert explain_import_error(raised("out of memory")) is None
