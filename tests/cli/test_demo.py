"""``discli demo`` in a browser: press the button, see pictures; bad values, Stop, a second tab; how it ends.

Of Gradio, which is optional, the slow tests need all, and Chromium; the fast ones need nothing.
"""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import discli
from discli.cli import app
from discli.runtime.errors import DiscliError
from discli.sampling.drawing import Easel
from discli.sampling.page import FIRST_PORT, free_port, is_open, page
from discli.sampling.space import export_space
from tests.browser import Browser, Tab, open_browser

_MINUTE = 60.0


def test_without_gradio_two_lines_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    with pytest.raises(DiscliError) as caught:
        app(["demo", str(tmp_path / "no-such-run")], standalone_mode=False)  # says so before it looks for the model
    assert "pip install 'discli[demo]'" in caught.value.hint
    assert caught.value.status == 2
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_port_that_is_taken_is_refused_or_the_next_one_found(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DiscliError, match=str(port)):
            free_port("127.0.0.1", port)
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        assert port < free_port("127.0.0.1") < port + 100
    assert free_port("127.0.0.1", port) == port
    monkeypatch.setenv("GRADIO_SERVER_PORT", "http")
    with pytest.raises(DiscliError, match="GRADIO_SERVER_PORT=http"):
        free_port("127.0.0.1")
    monkeypatch.delenv("GRADIO_SERVER_PORT")
    assert free_port("127.0.0.1") >= FIRST_PORT


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(DiscliError, match="--host"):
        free_port(host)


def test_only_this_machine_is_closed():
    assert not any(map(is_open, ("127.0.0.1", "localhost", "127.1.2.3", "::1")))
    assert all(map(is_open, ("0.0.0.0", "192.168.0.7", "::")))


def test_a_space_names_no_place_and_keeps_its_model(tmp_path):
    folder = export_space(discli.load("digits", device="cpu"), tmp_path / "space")
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "app.py", "requirements.txt", "digits.safetensors", "digits.card.json",
    }  # fmt: skip
    _, front, _ = (folder / "README.md").read_text().split("---", 2)
    told = dict(line.split(": ", 1) for line in front.strip().splitlines())
    assert (told["sdk"], told["app_file"], json.loads(told["title"])) == ("gradio", "app.py", "digits")
    assert told["sdk_version"][0].isdecimal()
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
        assert os.fsencode(Path(discli.__file__).parent) not in file.read_bytes()
    compile((folder / "app.py").read_text(), "app.py", "exec")
    again = discli.load(folder / "digits.safetensors", device="cpu")
    assert torch.equal(discli.sample(again, 2).pixels, discli.sample("digits", 2, device="cpu").pixels)
    with pytest.raises(DiscliError, match="is there already"):
        export_space(again, folder)


def test_a_space_takes_no_other_checkpoint_along(tmp_path, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--draws", "d", "--terms", "t", "--set", "sample.cfg_scale=2.0"]
    weak = ["--set", f'sample.guidance={{name = "autoguidance", checkpoint = "{tiny_run}"}}']
    with pytest.raises(DiscliError, match="another checkpoint"):
        app(["export", str(tiny_run), "--to", "space", *flags, *weak], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
def test_the_page_is_private_and_asks_only_what_the_model_knows(tiny_run, tmp_path, conditional, monkeypatch):
    pytest.importorskip("gradio")
    easel = Easel(discli.load(tiny_run, device="cpu"), "mine")
    if not conditional:
        monkeypatch.setattr(Easel, "classes", [])
    blocks = page(easel, tmp_path)
    parts = {part["props"].get("elem_id"): part["props"] for part in blocks.get_config_file()["components"]}
    assert not blocks.analytics_enabled
    assert blocks.get_api_info()["named_endpoints"] == {}
    assert (parts["classes"]["visible"], parts["cfg-scale"]["visible"]) == (conditional, conditional)


@contextmanager
def _served(*words: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves a page, with its temporary files in ``cwd``, and its address."""
    pytest.importorskip("gradio")
    environment = os.environ | {"TMPDIR": str(cwd), "OMP_NUM_THREADS": "1", "GRADIO_SERVER_PORT": "7900"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs ignore Ctrl-C, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()
        yield process, address
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    pytest.importorskip("gradio")
    with open_browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with _served("-m", "discli", "demo", cwd=tmp_path_factory.mktemp("served")) as (_, found):
        yield found


def _open(browser: Browser, address: str, width: int = 1280) -> Tab:
    tab = browser.open(address, width)
    tab.until("!!document.querySelector('#draw')", 2 * _MINUTE)
    return tab


def _status(tab: Tab, words: str) -> None:
    tab.until(f"document.querySelector('#status').innerText.includes({words!r})", 2 * _MINUTE)


def _draw(tab: Tab, **fields: object) -> None:
    for name, value in fields.items():
        tab.type(f"#{name} input, #{name} textarea", str(value))
    tab.click("#draw")


def _bytes(tab: Tab, where: str) -> bytes:
    """What an attribute's address gives."""
    fetched = f"""fetch({where}).then(answer => answer.blob()).then(blob => new Promise(done => {{
        const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(blob);
    }}))"""
    return base64.b64decode(tab.run(fetched).split(",", 1)[1])


def _fits(tab: Tab) -> bool:
    return bool(tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def _sound(tab: Tab, address: str) -> bool:
    """Nothing to complain of, and nothing from or to anywhere else."""
    foreign = [url for url in tab.requests if not url.startswith((address, "data:", "blob:"))]
    assert (tab.errors, foreign) == ([], [])
    return bool(tab.requests)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_button_draws_what_sample_draws(browser, address, width):
    tab = _open(browser, address, width)
    assert tab.run("document.querySelector('h1').innerText") == "digits"
    tab.click("#new-seed")
    seed = int(tab.until("(s => s != '0' && s)(document.querySelector('#seed textarea, #seed input').value)"))
    _draw(tab, n=6, steps=4)
    _status(tab, "6 images in")
    assert tab.until("!!document.querySelector('#sheet img')?.naturalWidth")
    assert tab.until("!!document.querySelector('#strip img')?.naturalWidth")
    sheet = Image.open(io.BytesIO(_bytes(tab, "document.querySelector('#sheet img').src")))
    ours = discli.sample("digits", 6, steps=4, seed=seed, device="cpu")
    assert np.array_equal(np.array(sheet), np.array(ours.sheet))
    shown = tab.run("document.querySelector('#command textarea').value")
    assert shown.startswith("discli sample digits -n 6 ")
    assert f"--seed {seed}" in shown
    with zipfile.ZipFile(tab.download("#download")) as packed:
        names = packed.namelist()
        first = np.array(Image.open(io.BytesIO(packed.read("samples/000000.png"))).convert("RGB"))
    assert {"samples/manifest.json", "samples.png", "samples.steps.png"} < set(names)
    assert np.array_equal(first, ours.pixels[0].permute(1, 2, 0).numpy())
    assert _fits(tab)
    assert _sound(tab, address)
    tab.close()


@pytest.mark.slow
def test_what_cannot_be_drawn_is_said_in_the_page_which_goes_on(browser, address):
    tab = _open(browser, address)
    _draw(tab, steps=0)
    _status(tab, "sample.steps")
    assert tab.run("!!document.querySelector('#status [role=alert]')")
    _draw(tab, steps=2, seed="<b>seven")
    _status(tab, "--seed <b>seven")
    _draw(tab, seed=7, n=65)
    _status(tab, "65")
    _draw(tab, n=1)
    _status(tab, "1 image in")
    assert _sound(tab, address)
    tab.close()


@pytest.mark.slow
def test_one_is_drawn_at_a_time_and_stop_stops(browser, address):
    first, second = _open(browser, address), _open(browser, address)
    _draw(first, n=64, steps=1000)
    _status(first, "Step ")
    _draw(second, n=1, steps=2)
    _status(second, "another drawing".capitalize())
    second.click("#stop")  # while it waits
    _status(second, "Stopped.")
    _draw(second, n=1, steps=2)
    _status(second, "another drawing".capitalize())
    first.click("#stop")
    _status(first, "Stopped.")
    _status(second, "1 image in")
    _draw(first, n=2, steps=2)
    _status(first, "2 images in")
    assert _sound(first, address)
    assert _sound(second, address)
    first.close()
    second.close()


@pytest.mark.slow
def test_stopped_is_the_last_word(browser, address):
    tab = _open(browser, address)
    for _ in range(8):
        _draw(tab, n=64, steps=1000)
        _status(tab, "Step ")
        tab.click("#stop")
        _status(tab, "Stopped.")
        time.sleep(0.5)  # for a line that comes late
        _status(tab, "Stopped.")
        assert tab.run("document.querySelector('#stop').disabled")
    assert _sound(tab, address)
    tab.close()


@pytest.mark.slow
def test_a_tab_that_is_closed_leaves_its_turn(browser, address):
    first, second = _open(browser, address), _open(browser, address)
    _draw(first, n=64, steps=1000)
    _status(first, "Step ")
    first.close()
    _draw(second, n=1, steps=2)
    _status(second, "1 image in")
    second.close()


def _end_while_drawing(tab: Tab, process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What it has said on stderr."""
    _draw(tab, n=64, steps=1000)
    _status(tab, "Step ")
    process.send_signal(number)
    _, said = process.communicate(timeout=_MINUTE)
    tab.close()
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_ctrl_c_ends_it_in_the_middle_of_a_drawing(browser, tmp_path):
    with _served("-m", "discli", "demo", cwd=tmp_path) as (process, address):
        said = _end_while_drawing(_open(browser, address), process, signal.SIGINT)
    assert process.returncode == 130
    assert said.splitlines()[-2] == "discli: Interrupted."
    assert list(tmp_path.glob("discli-demo-*")) == []


@pytest.mark.slow
def test_a_space_runs_anywhere_until_it_is_terminated(browser, tmp_path):
    folder = export_space(discli.load("digits", device="cpu"), tmp_path / "space")
    with _served("-u", str(folder / "app.py"), cwd=tmp_path) as (process, address):
        tab = _open(browser, address)
        _draw(tab, n=2, steps=2)
        _status(tab, "2 images in")
        assert _sound(tab, address)
        _end_while_drawing(tab, process, signal.SIGTERM)
    assert process.returncode == 0
    assert list(tmp_path.glob("discli-demo-*")) == []
