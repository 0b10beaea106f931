"""The page of ``discli demo`` and of a Space, in Gradio, which is optional: ``pip install 'discli[demo]'``.

Nothing in it comes from or goes to another machine: no fonts, no scripts, no statistics, no link to share.
"""

import errno
import html
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discli.runs.models import read_card
from discli.runtime.console import format_seconds, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_scaled
from discli.sampling.drawing import MOST_IMAGES, MOST_STEPS, Drawn, Easel, Form, Progress, Ticket

LOOPBACK, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100
_SECONDS_BETWEEN_LINES = 0.25
_SECONDS_TO_END = 1.5  # for a step that is under way
_KEPT = 3600.0  # seconds, of files that a page shows
_STYLE = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
footer { display: none !important; }
#new-seed { align-self: end; }
#status { min-height: 3.4em; padding: 0; }
#status progress { width: 100%; height: 0.5em; accent-color: var(--color-accent); }
#status [role=alert], #status [role=alert] b { color: var(--error-text-color); }
#sheet img, #strip img { background: white; }
#strip img { width: 100%; max-width: 100%; }
"""


def import_gradio() -> Any:
    """The optional module, which is to send nothing home. Raises DiscliError where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise DiscliError("The page needs Gradio.", "Install it: pip install 'discli[demo]'") from None


def page(easel: Easel, drawings: Path) -> Any:
    """Gradio's Blocks of one model; `serve` shows them. Files lie in the folder ``drawings`` until Gradio has them."""
    gr = import_gradio()
    given, private = easel.defaults, {"api_visibility": "private"}
    with gr.Blocks(title=f"{easel.name} · discli", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as blocks:
        gr.HTML(f"<h1>{html.escape(easel.name)}</h1><p>{html.escape(_about(easel))}</p>", elem_id="about")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                conditional = bool(easel.classes)
                classes = gr.Dropdown(
                    easel.classes, value=given.classes, label="Class", visible=conditional, elem_id="classes"
                )
                with gr.Row():
                    n = gr.Number(given.n, label="Images", info=f"1 to {MOST_IMAGES}", min_width=110, elem_id="n")
                    scale = gr.Number(
                        given.cfg_scale,
                        label="Guidance",
                        info="1 is none",
                        step=0.1,
                        min_width=110,
                        visible=conditional,
                        elem_id="cfg-scale",
                    )
                with gr.Row():
                    steps = gr.Number(
                        given.steps, label="Steps", info=f"1 to {MOST_STEPS}", min_width=110, elem_id="steps"
                    )
                    sampler = gr.Dropdown(
                        easel.samplers,
                        value=given.sampler,
                        label="Sampler",
                        info="from noise to image",
                        min_width=110,
                        elem_id="sampler",
                    )
                with gr.Row():
                    seed = gr.Textbox(
                        given.seed,
                        label="Seed",
                        info="decides the images",
                        max_lines=1,
                        scale=3,
                        min_width=150,
                        elem_id="seed",
                    )
                    another = gr.Button("New seed", min_width=90, scale=2, elem_id="new-seed")
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", min_width=120, elem_id="draw")
                    stop = gr.Button("Stop", interactive=False, min_width=120, elem_id="stop")
                status = gr.HTML(_line("Nothing is drawn yet: press Draw."), elem_id="status")
            with gr.Column(scale=3, min_width=300):
                # Gradio's own label lies on the picture.
                image = {"format": "png", "type": "filepath", "interactive": False, "show_label": False, "buttons": []}
                gr.HTML("<h3>Images</h3>")
                sheet = gr.Image(label="Images", alt_text="the images", elem_id="sheet", **image)
                gr.HTML("<h3>From noise to image</h3>")
                steps_seen = gr.Image(label="Steps", alt_text="the first, step by step", elem_id="strip", **image)
                download = gr.DownloadButton(
                    "Download (PNG files, manifest.json)", interactive=False, elem_id="download"
                )
                command = gr.Textbox(
                    label="The same on the command line",
                    interactive=False,
                    lines=3,
                    buttons=["copy"],
                    elem_id="command",
                )

        idle = [gr.update(interactive=True), gr.update(interactive=False)]
        at_work = idle[::-1]
        outcome = [status, draw, stop, sheet, steps_seen, download, command]
        ticket = gr.State()
        inputs = [ticket, n, seed, classes, scale, steps, sampler]

        def begin() -> list[Any]:
            waits = "Another drawing is under way; yours comes next." if easel.busy else "Starting ..."
            return [Ticket(), _line(waits), *at_work]

        def drawing(mine: Ticket, *fields: str | float | None) -> Iterator[list[Any]]:
            if not mine.begin():
                yield [gr.skip()] * len(outcome)  # `stopping` has said so, and the next may be asked for already
                return
            form, unchanged = Form(*fields), [gr.skip()] * 4
            folder = Path(tempfile.mkdtemp(dir=drawings))
            try:
                for news in _now_and_then(easel.draw(form, folder, mine)):
                    if isinstance(news, Progress):
                        yield [_bar(news), *at_work, *unchanged]
                        continue
                    took = f"{news.images} image{'s' if news.images > 1 else ''} in {format_seconds(news.seconds)}."
                    archive = gr.update(value=str(news.archive), interactive=True)
                    yield [_line(took), *idle, str(news.sheet), str(news.strip), archive, easel.command(form)]
                    return
                yield [_line("Stopped."), *idle, *unchanged]
            except DiscliError as error:
                yield [_refusal(error.message, error.hint), *idle, *unchanged]
            except Exception as error:  # whatever it is, the next drawing may go well
                stderr.print(f"Drawing failed: {type(error).__name__}: {error}")
                yield [_refusal(f"{type(error).__name__}: {error}", "Try other settings."), *idle, *unchanged]
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        # Gradio's own way to cancel lets a step's line arrive after the last word, and then the page is stuck.
        def stopping(mine: Ticket) -> list[Any]:
            return [_line("Stopped."), *idle] if mine.stop() else [gr.skip()] * 3

        another.click(lambda: str(secrets.randbelow(2**32)), None, seed, queue=False, show_progress="hidden", **private)
        begun = draw.click(begin, None, [ticket, status, draw, stop], queue=False, show_progress="hidden", **private)
        # "multiple": Draw may be pressed again while one that was stopped still has its place in the queue.
        begun.then(
            drawing,
            inputs,
            outcome,
            concurrency_limit=1,
            trigger_mode="multiple",
            show_progress="hidden",
            **private,
        )
        stop.click(stopping, ticket, [status, draw, stop], queue=False, show_progress="hidden", **private)
    return blocks


def serve(
    easel: Easel, host: str | None = None, port: int | None = None, ready: Callable[[str], object] = stderr.print
) -> None:
    """The page until SIGTERM, or KeyboardInterrupt, which is raised again. What is being drawn ends after its step.

    None: as Gradio's environment variables say, or `LOOPBACK` and its first free port. ``ready`` is given its address.
    Raises DiscliError where it cannot be served there.
    """
    gr = import_gradio()
    host = host or os.environ.get("GRADIO_SERVER_NAME") or LOOPBACK
    port = free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="discli-demo-") as folder, _until_terminated() as asked:
        shown, drawings = Path(folder, "shown"), Path(folder, "drawings")
        drawings.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(shown)  # where else they would stay
        os.environ["GRADIO_RUN_HISTORY"] = "False"
        for name in ("no_proxy", "NO_PROXY"):  # Gradio asks itself whether it is there
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))
        blocks = page(easel, drawings)
        fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
        try:
            blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                theme=gr.themes.Default(primary_hue="blue", **fonts),
                css=_STYLE,
            )
            ready(blocks.local_url)
            while not asked:
                time.sleep(0.1)
        finally:
            easel.closing.set()
            end = time.monotonic() + _SECONDS_TO_END
            while easel.busy and time.monotonic() < end:
                time.sleep(0.02)
            if getattr(blocks, "server", None) is not None:
                # It does not wait for browsers that are still connected, nor complain of them.
                blocks.server.config.timeout_graceful_shutdown = 0
                logging.getLogger("uvicorn.error").disabled = True
            blocks.close(verbose=False)


def _about(easel: Easel) -> str:
    model, card = easel.model, read_card(easel.model.checkpoint)
    size = format_scaled(sum(weight.numel() for weight in model.network.parameters()), ("", "k", "M", "B"))
    facts = f"{model.contract.resolution} px, {size} parameters, step {model.step:,}."
    return f"Draws {card.draws}. {facts} {card.terms}." if card else facts


def _line(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _bar(at: Progress) -> str:
    rate = f"{at.rate:,.1f} images/s, {format_seconds(at.left)} left" if at.rate else "starting"
    return f'<progress max="{at.total}" value="{at.done}"></progress>' + _line(
        f"Step {at.done:,} of {at.total:,}, {rate}"
    )


def _refusal(message: str, hint: str) -> str:
    return f'<p role="alert"><b>{html.escape(message)}</b><br>{html.escape(hint)}</p>'


def _now_and_then(drawing: Iterator[Progress | Drawn]) -> Iterator[Progress | Drawn]:
    """The first news, what is drawn, and of the steps between one now and then: each is sent to the browser."""
    last = 0.0
    for news in drawing:
        if isinstance(news, Drawn) or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            yield news


def free_port(host: str, port: int | None = None) -> int:
    """``port``, or the first free one from `FIRST_PORT` on. Raises DiscliError where there is none."""
    said = os.environ.get("GRADIO_SERVER_PORT", str(FIRST_PORT))
    if not port and not (said.isdecimal() and 0 < int(said) < 65536):
        raise DiscliError(f"GRADIO_SERVER_PORT={said}: not a port.", "Unset it, or give a --port from 1 to 65535.")
    first = port or int(said)
    for number in (first,) if port else range(first, min(first + PORTS, 65536)):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
                return number
        except socket.gaierror:
            break
        except PermissionError:
            raise DiscliError(f"--port {number}: not allowed to listen there.", "Take one from 1024 on.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            break
    else:
        taken = f"--port {port} is taken" if port else f"Ports {first} to {first + PORTS - 1} are taken"
        raise DiscliError(f"{taken}.", "Give another --port, or none: the first free one is found.")
    raise DiscliError(f"--host {host}: not an address of this machine.", "127.0.0.1 is this machine alone.")


@contextmanager
def _until_terminated() -> Iterator[list[int]]:
    """A list that a SIGTERM fills."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def is_open(host: str) -> bool:
    """Whether other machines may reach it."""
    return host != "localhost" and not host.startswith("127.") and host != "::1"
