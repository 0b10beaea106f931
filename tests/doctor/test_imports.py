"""Broken packages are found out one by one, in other processes."""

from discli.doctor.imports import REQUIRED, try_imports
from tests.doctor.packages import DEADLY, WRONG_INDEX, write_module


def test_one_broken_package_does_not_hide_the_rest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_module(tmp_path, "torchvision", WRONG_INDEX))
    write_module(tmp_path, "h5py", DEADLY)
    found = try_imports(("torchvision", "h5py", "no_such_package", "rich", "safetensors"))
    assert "different package indexes" in found["torchvision"].error
    assert "--index-url" in found["torchvision"].fix
    assert "status -6" in found["h5py"].error
    assert found["no_such_package"].missing
    for healthy in ("rich", "safetensors"):
        assert found[healthy].error == ""
        assert not found[healthy].missing
    assert found["safetensors"].version


def test_what_a_package_prints_is_not_taken_for_an_answer(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_module(tmp_path, "talkative", 'print("{}", flush=True)'))
    assert try_imports(("talkative",))["talkative"].version == "9.9"


def test_a_module_that_is_missing_within_a_package_is_an_error_of_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_module(tmp_path, "half", "import no_such_package"))
    assert "no_such_package" in try_imports(("half",))["half"].error


def test_nothing_is_imported_twice():
    assert len(set(REQUIRED.values())) == len(REQUIRED)
