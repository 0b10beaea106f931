"""README.md of a published model, as the hub shows it: what it is, how to use it, how it was made and scored."""

from collections.abc import Sequence

from discli import __version__
from discli.recipe import DataContract, Recipe
from discli.runs.description import Began
from discli.runs.eval_result import EvalResult
from discli.runtime.numbers import format_number
from discli.sampling.load import LoadedModel


def model_card(model: LoadedModel, scores: Sequence[EvalResult], terms: str | None = None) -> str:
    """Markdown with the hub's front matter. ``scores`` are results of ``discli eval-fid``; none: it says so.

    ``terms``: the data and its licence, where they are known.
    """
    recipe, contract, step = model.recipe, model.contract, model.step
    classes = "class-conditional" if recipe.model.num_classes else "unconditional"
    call = 'pipe(16, classes="balanced", cfg_scale=2.0)' if recipe.model.num_classes else "pipe(16)"
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [discli, dis, state-space, mamba, diffusion, image-generation]
---

# {recipe.name}

A {classes} diffusion model of {contract.resolution} px images with a state-space backbone
(DiS, [arXiv:2402.05608](https://arxiv.org/abs/2402.05608)), trained with discli {__version__}.

![Samples](samples.png)

## Use

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("THIS_REPOSITORY", trust_remote_code=True)  # needs discli
images = {call}.images
```

The same settings and seed give the images of `discli sample`. Arguments are fields of the recipe's
`[sample]`: `steps`, `sampler`, `cfg_scale`, ...

## Scores

{_scores(scores)}

## Training

{_table(_training(recipe, contract, step, model.began))}

<details><summary>The whole recipe</summary>

```json
{recipe.model_dump_json(indent=1)}
```

</details>

## What to know before use

It draws what its training images look like, with their biases, and was made to study the model.
{terms or "Whoever publishes it should say here under which licence, and what the training images allow."}
"""


def _training(recipe: Recipe, contract: DataContract, step: int, began: Began | None) -> list[tuple[str, str]]:
    train, model = recipe.train, recipe.model
    return [
        ("images", f"{contract.num_samples:,} of {contract.resolution} px, crop {contract.crop}"),
        ("classes", f"{model.num_classes:,}" if model.num_classes else "none"),
        ("codec", "pixels" if contract.codec.is_pixels else contract.codec.weights or contract.codec.name),
        ("network", f"{model.depth} blocks of width {model.embed_dim}, patches of {model.patch_size}"),
        ("objective", recipe.diffusion.objective.name),
        ("steps", f"{step:,} of {train.batch_size} images"),
        *([("began from", str(began))] if began else []),
        ("seed", str(train.seed)),
        ("learning rate", f"{train.lr:g}, {train.lr_schedule.name}"),
        ("weights", f"averaged: {', '.join(f'{k} {v}' for k, v in train.ema.model_dump(mode='json').items())}"),
        ("sampling", f"{recipe.sample.sampler.name}, {recipe.sample.steps} steps, scale {recipe.sample.cfg_scale:g}"),
    ]


def _scores(scores: Sequence[EvalResult]) -> str:
    if not scores:
        return "Not scored yet."
    rows = []
    for score in scores:
        told = {key: getattr(score.samples, key) for key in ("n", "nfe", "cfg_scale", "seed")}
        how = ", ".join(f"{key} {value}" for key, value in told.items() if value is not None)
        against = f"{score.reference.n or '?'} images"
        rows += [(name, f"{format_number(value)} ({how}; against {against})") for name, value in score.scores.items()]
    return _table(rows)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])
