"""What a recipe takes: parameters, arithmetic, memory, disk and time, in training and in sampling.

Counted, with two exceptions that say so: the time, which needs an assumption that the user makes,
and what the paper says of its own networks.
"""

from discli.cost.disk import averages_kept, disk_needed, memory_needed
from discli.cost.flops import forward_flops
from discli.cost.hardware import Hardware
from discli.cost.memory import activation_memory, parameters_by_part, trained_parameters
from discli.diffusion import count_evaluations
from discli.model import empty_network
from discli.recipe import Recipe, parse_recipe
from discli.recipe.model import ModelSpec
from discli.recipe.spec import ChoiceSpec
from discli.recipe.train import share_of_batch
from discli.runtime.console import format_bytes, format_seconds
from discli.runtime.facts import Facts
from discli.runtime.numbers import format_number, format_scaled

# arXiv:2402.05608, table 1; of 32 px images without classes in patches of 4.
PAPER_GFLOPS = {"dis-s": 0.43, "dis-b": 1.86, "dis-m": 3.70, "dis-l": 6.57, "dis-h": 14.79}
# What the paper's sizes have in common, whatever they are trained on.
_ANY_DATA = {"patch_size", "num_classes", "drop_path_rate", "backward_dt_init", "scan"}
_CHOICES = ("mixer", "scan_order", "skip", "conditioning")
_ADDED = ("patch_embed", "grid_conv", "head_conv")  # named where they are not the paper's


def recipe_facts(recipe: Recipe, machine: Hardware) -> Facts:
    """All of it, from what the network is to what its samples cost."""
    flops = forward_flops(recipe)
    parameters = parameters_by_part(empty_network(recipe))
    count, trained = sum(parameters.values()), trained_parameters(recipe)
    return (
        _shape(recipe)
        | _parts("parameters", parameters)
        | _arithmetic(recipe, flops)
        | _paper(recipe)
        | _memory(recipe, machine, count, trained)
        | _disk(recipe, count, trained)
        | _training(recipe, machine, 3 * sum(flops.values()))
        | _sampling(recipe, machine, sum(flops.values()))
    )


def _shape(recipe: Recipe) -> Facts:
    model = recipe.model
    kind = "pixels" if recipe.data.codec.is_pixels else f"latents of {recipe.data.resolution} px"
    classes = f"{model.num_classes:,} classes" if model.num_classes else "no classes"
    extra = _tokens(recipe) - recipe.num_patches
    fields = type(model).model_fields
    choices = (*_CHOICES, *(key for key in _ADDED if getattr(model, key) != fields[key].default))
    rows = [
        ("network", f"{model.depth} blocks of width {model.embed_dim}, {classes}"),
        ("choices", ", ".join(f"{key.replace('_', ' ')} {_name(getattr(model, key))}" for key in choices)),
        ("input", f"{' x '.join(map(str, recipe.input_shape))} {kind}, in patches of {model.patch_size}"),
        ("tokens", f"{recipe.num_patches:,} patches and {extra} more"),
    ]
    record = {"name": recipe.name, "tokens": recipe.num_patches + extra, "patches": recipe.num_patches}
    return Facts(rows, record | {"settings": recipe.model_dump(mode="json")})


def _name(choice: ChoiceSpec | tuple[ChoiceSpec, ...]) -> str:
    return " + ".join(one.name for one in choice) if isinstance(choice, tuple) else choice.name


def _tokens(recipe: Recipe) -> int:
    return empty_network(recipe).pos_embed.shape[1]


def _parts(what: str, parts: dict[str, int]) -> Facts:
    total = sum(parts.values())
    rows = [(f"  {part}", f"{count:,} ({count / total:.1%})") for part, count in parts.items() if count]
    return Facts([(what, f"{total:,}"), *rows], {what: {"total": total, "by_part": parts}})


def _arithmetic(recipe: Recipe, flops: dict[str, int]) -> Facts:
    total = sum(flops.values())
    rows = [("forward", f"{_flops(total)} an image, 2 for a multiply-add, the scan's recurrence counted")]
    rows += [(f"  {part}", f"{_flops(count)} ({count / total:.1%})") for part, count in flops.items() if count]
    again = "; activation checkpointing does the forward pass of the blocks twice, which is not counted"
    note = again if recipe.train.activation_checkpointing else ""
    rows.append(("training", f"{_flops(3 * total)} an image: a backward pass is twice a forward one{note}"))
    return Facts(rows, {"flops": {"forward": total, "forward_by_part": flops, "training": 3 * total}})


def _paper(recipe: Recipe) -> Facts:
    """The paper's own count beside ours of the same network, where the recipe's is one of the paper's five."""
    preset = recipe.model.preset
    if preset is None or preset not in PAPER_GFLOPS:
        return Facts([], {"paper": None})
    same = ModelSpec.model_validate({"preset": preset}).model_dump(exclude=_ANY_DATA)
    if recipe.model.model_dump(exclude=_ANY_DATA) != same:
        return Facts([], {"paper": None})
    theirs, ours = PAPER_GFLOPS[preset], sum(forward_flops(as_in_the_papers_table(preset)).values()) / 1e9
    why = "its counter did not see the mixers' fused calls, only the long skips, the embeddings and the head"
    there = f"{_size_name(preset)} on 32 px images, p = 4"
    text = f"{theirs:g} GFLOPs for {there}, where discli counts {format_number(ours, 3)}"
    return Facts([("in the paper", f"{text}: {why}")], {"paper": {"gflops": theirs, "ours_there": ours, "why": why}})


def as_in_the_papers_table(preset: str) -> Recipe:
    """The network that the paper's table 1 counts."""
    model = {"preset": preset, "patch_size": 4}
    tree = {"name": preset, "model": model, "data": {"resolution": 32}, "train": {"steps": 1}}
    return parse_recipe(tree, preset)


def _size_name(preset: str) -> str:
    return f"DiS-{preset[-1].upper()}"


def _memory(recipe: Recipe, machine: Hardware, count: int, trained: int) -> Facts:
    """Of one device, without what lives only within an operation; see `activation_memory`."""
    spec = recipe.train
    shards = machine.gpus if spec.parallel == "fsdp2" else 1
    averages = averages_kept(spec.ema)
    state = memory_needed(count, averages, trained) / shards
    each = f", over {shards} devices" if shards > 1 else ""
    what = f"weights, gradients, AdamW's two moments, {averages} average{'s' if averages > 1 else ''}"
    rows = [("memory", f"{format_bytes(state)}: {what}, in float32{each}")]

    precision, backend = machine.precision(spec.precision), machine.backend(recipe.model)
    plain, checkpointed = (
        activation_memory(recipe, machine.device_type, precision, backend, checkpointing=flag) for flag in (False, True)
    )
    where = f"{precision}, scan {backend} on {machine.device_type}, not compiled"
    record = {"state": state, "precision": precision, "scan": backend, "device": machine.device_type}
    if plain is None or checkpointed is None:
        rows.append(("activations", f"not counted: {backend} cannot run without its GPU"))
        return Facts(rows, {"memory": record | {"activations": None}})
    for heading, kept in (("activations", plain), ("  checkpointed", checkpointed)):
        fixed = f" and {format_bytes(kept.fixed)} whatever their number" if kept.fixed else ""
        rows.append((heading, f"{format_bytes(kept.per_image)} an image{fixed}"))
    rows[-2] = (rows[-2][0], f"{rows[-2][1]}, kept for the backward pass ({where})")

    micro = spec.micro_batch or share_of_batch(spec, machine.gpus)
    used = (checkpointed if spec.activation_checkpointing else plain).of(micro)
    how = "with" if spec.activation_checkpointing else "without"
    rows.append(
        ("in all", f"over {format_bytes(state + used)} with {micro:,} images at once, {how} activation checkpointing")
    )
    kept_record = {
        name: {"per_image": kept.per_image, "fixed": kept.fixed}
        for name, kept in (("plain", plain), ("checkpointed", checkpointed))
    }
    return Facts(
        rows, {"memory": record | {"activations": kept_record, "images_at_once": micro, "total": state + used}}
    )


def _disk(recipe: Recipe, count: int, trained: int) -> Facts:
    checkpoint, disk = disk_needed(recipe.train, count, averages_kept(recipe.train.ema), trained)
    text = f"{format_bytes(checkpoint)} a checkpoint, {format_bytes(disk)} for the whole run"
    return Facts([("disk", text)], {"disk": {"checkpoint": checkpoint, "run": disk}})


def _training(recipe: Recipe, machine: Hardware, flops: int) -> Facts:
    """The work of the whole run, and how long it takes at each utilisation."""
    spec = recipe.train
    images = spec.steps * spec.batch_size
    rows = [("run", f"{spec.steps:,} steps of {spec.batch_size:,}: {images:,} images, {_flops(images * flops)}")]
    record = {"images": images, "flops": images * flops}
    precision = machine.precision(spec.precision)
    peak = machine.peak(precision, spec.tf32, spec.peak_tflops)
    if peak is None:
        ask = "of another device: --gpu A100 or --tflops X, with --gpus N and --utilisation U"
        if machine.gpu:
            ask = f"{machine.gpu} has no known peak in {precision}: give --tflops X, or --set train.precision=fp32"
        rows.append(("time", ask))
        return Facts(rows, {"run": record | {"times": None}})
    assumed = "as you assume" if machine.assumed else "an assumption"
    of_peak = f"of {machine.name}'s peak of {format_number(peak / 1e12)} TFLOP/s, {assumed}, not a measurement"
    times = []
    for share in machine.utilisations:
        rate = peak * share / flops
        times.append({"utilisation": share, "images_per_second": rate, "seconds": images / rate})
        duration = format_seconds(images / rate)
        rows.append(("time", f"{duration} at {share:.0%} {of_peak}: {format_number(rate)} images/s"))
        of_peak = "of it"
    return Facts(rows, {"run": record | {"peak_flops": peak, "gpus": machine.gpus, "times": times}})


def _sampling(recipe: Recipe, machine: Hardware, flops: int) -> Facts:
    """Of one image by the recipe's sampler, and of as many as the recipe scores."""
    settings, n = recipe.sample, recipe.eval.n
    calls = count_evaluations(recipe.diffusion, settings, recipe.in_channels)
    guidance = "no guidance" if settings.cfg_scale == 1.0 else f"guidance {settings.cfg_scale:g}"
    text = f"{settings.sampler.name}, {settings.steps} steps, {guidance}: {calls:,} network calls an image"
    decoder = "" if recipe.data.codec.is_pixels else ", without the decoder"
    weaker = ", a weaker network's taken to be as large" if settings.guidance.name == "autoguidance" else ""
    rows = [("sampling", f"{text}, {_flops(calls * flops)}{decoder}{weaker}")]
    peak = machine.peak(machine.precision(settings.precision), recipe.train.tf32, recipe.train.peak_tflops)
    times = []
    for share in machine.utilisations if peak else ():
        assert peak is not None
        rate = peak * share / (calls * flops)
        times.append({"utilisation": share, "images_per_second": rate, "seconds": n / rate})
        rows.append(
            (f"  {n:,} images", f"{format_seconds(n / rate)} at {share:.0%}: {format_number(rate, 3)} images/s")
        )
    record = {"evaluations": calls, "flops": calls * flops, "images": n, "times": times if peak else None}
    return Facts(rows, {"sampling": record})


def _flops(flops: float) -> str:
    """26.2 MFLOPs, 208 GFLOPs, 255 EFLOPs."""
    return format_scaled(flops / 1000, [f"{prefix}FLOPs" for prefix in "kMGTPE"], digits=4)
