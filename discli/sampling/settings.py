"""What a user may ask of ``discli sample``, in words and flags, to the settings and class numbers it means."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from discli.recipe import Recipe, parse_recipe
from discli.recipe.kinds import TimestepSpacing
from discli.recipe.sample import SAMPLERS, SampleSpec
from discli.runtime.errors import DiscliError


class SampleSettings(TypedDict, total=False):
    """How images are drawn. What is absent or None follows the recipe's ``[sample]``."""

    cfg_scale: float | None  # guidance; 1 is none
    steps: int | None
    sampler: str | Mapping[str, Any] | None  # ddpm, ddim, ..., or with its own settings, as in a recipe
    eta: float | None  # DDIM's noise: 0 none, 1 as much as DDPM
    timestep_spacing: TimestepSpacing | None  # which timesteps: linspace, leading, trailing, ddim
    time_shift: float | None  # of flow's steps, towards noise
    guided_channels: Literal["all", "first-three"] | None
    cfg_interval: tuple[float, float] | None  # guide only between these noise levels
    cfg_schedule: str | Mapping[str, Any] | None  # the scale over the steps: constant, linear, cosine
    contrastive_correction: bool | None  # under guidance, of what was trained with diffusion.contrastive
    autoguidance: str | Path | None  # guide away from this weaker run or checkpoint
    clip_denoised: bool | None
    precision: Literal["auto", "fp32", "bf16"] | None
    compile: bool | None
    model_batch: int | None  # images per network call; part of what decides the last bits


def settle_settings(recipe: Recipe, given: SampleSettings) -> SampleSpec:
    """The recipe's ``[sample]`` with what was given in its place, checked as a recipe is.

    Beside the fields: the samplers' own settings by name, such as ``noise_scale`` of Euler-Maruyama.
    Raises DiscliError for settings that do not exist, do not fit the model, or contradict each other.
    """
    wanted: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    tree = recipe.model_dump(mode="json")
    sample = tree["sample"]
    weak, interval = (wanted.pop(key, None) for key in ("autoguidance", "cfg_interval"))
    of_samplers = {key for spec in SAMPLERS.values() for key in spec.model_fields if key != "name"}
    of_sampler = {key: wanted.pop(key) for key in of_samplers & wanted.keys()}
    if wanted.get("sampler") == recipe.sample.sampler.name:
        del wanted["sampler"]  # with what the recipe says about it
    sample |= wanted
    for key in ("cfg_scale", "time_shift"):
        if key in wanted:
            sample[key] = float(wanted[key])
    if of_sampler:
        sampler = sample["sampler"]
        sample["sampler"] = ({"name": sampler} if isinstance(sampler, str) else sampler) | of_sampler
    if weak is not None:
        sample["guidance"] = {"name": "autoguidance", "checkpoint": str(weak)}
    if interval is not None:
        low, high = interval
        sample["cfg_interval"] = {"low": float(low), "high": float(high)}
    autoguided = isinstance(sample["guidance"], dict) and sample["guidance"]["name"] == "autoguidance"
    if recipe.model.num_classes == 0 and sample["cfg_scale"] != 1.0 and not autoguided:
        raise DiscliError(
            f"--cfg-scale {sample['cfg_scale']:g}: this model is unconditional and has no class to guide towards.",
            "Leave it out, or guide with a weaker checkpoint: --autoguidance RUN.",
        )
    if weak is not None and sample["cfg_scale"] == 1.0:
        raise DiscliError("--autoguidance at scale 1 changes nothing.", "Give --cfg-scale, such as 2.")
    return parse_recipe(tree, "flags of discli sample").sample


def parse_classes(given: str | Sequence[str | int], num_classes: int, names: Sequence[str]) -> tuple[int, ...]:
    """Class numbers: () for "random", all for "balanced", else those of names or numbers, with commas or in a list.

    Names that hold commas themselves ("tench, Tinca tinca") are found, as a whole or by one of their parts.
    Raises DiscliError for classes that the model does not have.
    """
    if given == "random" or (not isinstance(given, str) and len(given) == 0):
        return ()
    if num_classes == 0:
        raise DiscliError("--classes: this model is unconditional.", "Leave --classes out.")
    if given == "balanced":
        return tuple(range(num_classes))
    if not isinstance(given, str):
        return tuple(_number_or_complaint(str(text), num_classes, names) for text in given)
    parts, numbers = [part.strip() for part in given.split(",")], []
    while parts:
        # The longest run of parts that is a name, so that a name's own commas do not cut it.
        candidates = [
            (count, _number(", ".join(parts[:count]), num_classes, names)) for count in range(len(parts), 0, -1)
        ]
        count, number = next(((c, found) for c, found in candidates if found is not None), (1, None))
        numbers.append(number if number is not None else _number_or_complaint(parts[0], num_classes, names))
        parts = parts[count:]
    return tuple(numbers)


def _number(text: str, num_classes: int, names: Sequence[str]) -> int | None:
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    loose = _loosely(text)
    matches = [
        number
        for number, name in enumerate(names)
        if loose and loose in (_loosely(name), *(_loosely(part) for part in name.split(",")))
    ]
    return matches[0] if len(matches) == 1 else None


def _number_or_complaint(text: str, num_classes: int, names: Sequence[str]) -> int:
    number = _number(text, num_classes, names)
    if number is not None:
        return number
    near = [] if text.isdecimal() else difflib.get_close_matches(text, names, n=1)
    example = f", or names such as {names[0]!r}" if names else ""
    hint = f"Did you mean {near[0]!r}?" if near else f"Give numbers from 0 to {num_classes - 1}{example}."
    raise DiscliError(f"--classes {text}: no such class.", hint)


def _loosely(name: str) -> str:
    return name.strip().casefold().replace("_", " ")
