"""Flags and help: scores."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, Json, app, refuse_ignored
from discli.runtime.errors import DiscliError


class Features(StrEnum):
    inception = "inception"
    random = "random"
    dinov2 = "dinov2"


class Convention(StrEnum):
    torch_fidelity = "torch-fidelity"
    adm = "adm"
    clean_fid = "clean-fid"


@app.command("eval-fid", epilog="Example: discli eval-fid samples/ --ref cifar10.h5 --card score.html")
def eval_fid(
    context: typer.Context,
    samples: Annotated[
        Path | None, typer.Argument(help="A folder of discli sample, any folder, zip or tar of images, .npz or .h5.")
    ] = None,
    ref: Annotated[
        Path | None, typer.Option(help="FILE.h5, folder, zip or STATS.npz. Default: what the run was trained on.")
    ] = None,
    features: Annotated[Features, typer.Option(help="random needs no download, and is not FID.")] = Features.inception,
    weights: Annotated[
        Path | None, typer.Option(help="Default: DISCLI_INCEPTION_WEIGHTS or a download; DISCLI_DINOV2_WEIGHTS.")
    ] = None,
    convention: Annotated[
        Convention | None,
        typer.Option(help="Whose resizing and quantisation. Default: torch-fidelity; clean-fid for dinov2."),
    ] = None,
    metrics: Annotated[str, typer.Option(help="fid, sfid, is, kid, prc with commas, or all.")] = "fid",
    n: Annotated[int | None, typer.Option("-n", "--n", min=2, help="Score this many. Default: all.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="A score for each class too.")] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for the interval; 0: none.")] = 50,
    card: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a score card.")] = None,
    make_ref: Annotated[
        Path | None, typer.Option(metavar="SOURCE", help="Only write a reference's statistics, to --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="REF.npz", help="Where --make-ref writes.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Say why two scores differ.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once through the network.")] = 64,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep reference statistics, by content.")] = True,
    as_json: Json = False,
    device: Device = None,
) -> None:
    """Score samples: FID and its relatives, with everything that makes the number comparable."""
    if compare is not None:
        refuse_ignored(context, "--compare", "compare", "as_json")
        from discli.reports.compare_scores import compare_files

        found = compare_files(*compare)
        typer.echo(json.dumps(vars(found), indent=1) if as_json else "\n".join(found.lines()))
        return

    if make_ref is not None:
        described = ("features", "weights", "convention", "batch_size", "device")
        refuse_ignored(context, "--make-ref", "make_ref", "out", *described)
        if out is None:
            raise DiscliError("--make-ref needs --out.", "Example: discli eval-fid --make-ref cifar10.h5 --out ref.npz")
        from discli.evaluation.evaluate import make_ref as write_reference

        write_reference(
            make_ref,
            out,
            features=features.value,
            weights=weights,
            convention=convention and convention.value,
            batch_size=batch_size,
            device=device,
        )
    elif samples is None:
        raise DiscliError("eval-fid needs SAMPLES.", "Example: discli eval-fid samples/")
    else:
        if out is not None:
            raise DiscliError("--out goes with --make-ref alone.", "Leave it out; a score card is written with --card.")
        from discli.evaluation.evaluate import eval_fid as run

        run(
            samples,
            ref,
            features=features.value,
            weights=weights,
            convention=convention and convention.value,
            metrics=[part.strip() for part in metrics.split(",")],
            n=n,
            per_class=per_class,
            bootstrap=bootstrap,
            card=card,
            batch_size=batch_size,
            cache=cache,
            as_json=as_json,
            device=device,
        )
