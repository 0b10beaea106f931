"""``discli sweep``: guidance, length of the average and steps of a trained run."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, Json, app
from discli.cli.eval_fid import Features


@app.command(epilog="Example: discli sweep runs/mine --cfg-scale 1:4 --steps 10,20,50 -n 2000")
def sweep(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its name as discli runs shows it.")],
    cfg_scale: Annotated[
        str | None, typer.Option(metavar="VALUES", help="Guidance: 1:4 (five values), 1:4:7 (seven), or 1,2.5,4.")
    ] = None,
    ema: Annotated[
        str | None,
        typer.Option(metavar="VALUES", help='Widths of the average, of a run trained with train.ema = "power".'),
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="VALUES", help="Sampling steps.")] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=2, help="Samples of each setting.")] = 1_000,
    features: Features = "inception",
    ref: Annotated[Path | None, typer.Option(help="As of eval-fid. Default: what the run was trained on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/sweep; of a model MODEL-sweep.")] = None,
    as_json: Json = False,
    device: Device = None,
) -> None:
    """Score a trained run over guidance, EMA length and steps. All have the same noise.

    Every combination is scored; run the same command again to resume, or with more values. The best is
    scored again by fresh samples, which had no part in choosing it. Writes sweep.json, map.png and images.png.
    """
    from discli.ablation.sweep import parse_counts, parse_values
    from discli.ablation.sweep import sweep as run_sweep
    from discli.cli.sweep_table import print_sweep
    from discli.runtime.files import to_json

    found = run_sweep(
        run,
        cfg_scale=parse_values(cfg_scale, "--cfg-scale") if cfg_scale else (),
        ema=parse_values(ema, "--ema") if ema else (),
        steps=parse_counts(steps, "--steps") if steps else (),
        n=n,
        features=features,
        ref=ref,
        out=out,
        device=device,
    )
    if as_json:
        typer.echo(to_json(found))
    else:
        print_sweep(found)
