"""``discli demo``: a page in the browser to draw with a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, app


@app.command(epilog="Example: discli demo runs/mine && discli demo digits --port 8000")
def demo(
    run: Annotated[
        Path, typer.Argument(help="A run's or checkpoint's folder, an exported .safetensors, or a model's name.")
    ] = Path("digits"),
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is open to the network.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    device: Device = None,
) -> None:
    """Serve a page on this machine that draws with a model.

    Images are those of discli sample. Ctrl-C or SIGTERM ends it. Needs pip install 'discli[demo]'. The same page for
    others: discli export --to space.
    """
    from discli.runtime.console import stderr
    from discli.sampling.drawing import Easel
    from discli.sampling.load import load
    from discli.sampling.page import import_gradio, is_open, serve

    import_gradio()  # before the weights, which may take long
    easel = Easel(load(run, device), str(run), device)
    if is_open(host):
        stderr.print(f"--host {host}: everyone who reaches this machine over the network can draw.", style="yellow")
    serve(easel, host, port, ready=typer.echo)
