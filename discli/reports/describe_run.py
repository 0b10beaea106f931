"""How far a run is, what a checkpoint holds, and all that their recipe says."""

from collections.abc import Iterable
from pathlib import Path

from discli.cost.describe import recipe_facts
from discli.cost.hardware import Hardware
from discli.recipe.data_files import are_there
from discli.runs.checkpoint import read_description
from discli.runs.description import read_began
from discli.runs.layout import RunFolder, ema_file
from discli.runs.models import is_as_published, read_card
from discli.runs.status import RunStatus, run_status
from discli.runtime.console import format_bytes, format_seconds
from discli.runtime.facts import Facts
from discli.runtime.numbers import format_number


def run_facts(folder: Path, machine: Hardware) -> Facts:
    """Step, loss, score, speed and size of a run, whatever state it is in; then what its recipe takes."""
    run = run_status(folder)
    facts = _progress(run) | _speed(run) | _disk(folder)
    return facts if run.recipe is None else facts | recipe_facts(run.recipe, machine)


def checkpoint_facts(path: Path, machine: Hardware) -> Facts:
    """A checkpoint's folder, or one safetensors file with a recipe in it, such as ``discli export`` writes."""
    file = path if path.is_file() else ema_file(path)
    recipe, contract, step, metadata = read_description(file)
    files = _sizes([path] if path.is_file() else path.iterdir())
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in files.items())
    rows = [
        ("checkpoint", f"{path} (discli {metadata.get('discli_version', 'of an unknown version')})"),
        ("step", f"{step:,} of {recipe.train.steps:,}"),
        ("files", listed),
        *([("began from", f"{began} ({began.file})")] if (began := read_began(metadata)) else []),
        *((f"data: {heading}", text) for heading, text in contract.describe()),
    ]
    record = {"kind": "checkpoint", "path": str(path), "step": step, "files": files}
    record |= {"contract": contract.model_dump(mode="json")}
    return _card(file) | Facts(rows, record) | recipe_facts(recipe, machine)


def _card(file: Path) -> Facts:
    """Of a model that has one."""
    card = read_card(file)
    if card is None:
        return Facts([], {"card": None})
    as_published = is_as_published(file, card)
    weights = f"sha256 {card.sha256}" if as_published else "not those that the card is about: their sha256 differs"
    rows = [("draws", card.draws), *(("score", line) for line in card.score_lines), ("training", card.training)]
    return Facts([*rows, ("terms", card.terms), ("weights", weights)], {"card": card.model_dump(mode="json")})


def _progress(run: RunStatus) -> Facts:
    steps = f" of {run.steps:,}" if run.steps else ""
    rows = [("run", f"{run.folder} ({run.state})"), ("step", f"{run.step:,}{steps}")]
    rows += [("problem", problem) for problem in run.problems]
    if run.loss is not None:
        rows.append(("loss", f"{format_number(run.loss)}, the mean since the log line before"))
    if run.held_out_loss is not None:
        rows.append(("held-out loss", f"{format_number(run.held_out_loss)}, on samples that are never trained on"))
    if run.score is not None:
        at = "" if run.score.step is None else f" at step {run.score.step:,}"
        n = "" if run.score.n is None else f", n = {run.score.n:,}"
        rows.append(("score", f"{run.score.name} {format_number(run.score.value)}{at}{n}"))
    began = run.description.began if run.description else None
    if began:
        rows.append(("began from", f"{began} ({began.file})"))
        rows += [(f"  {part.how}", f"{part.what}: {part.why}") for part in began.parts]
    if run.data_file:
        there = are_there(run.data_file)
        rows.append(("data", run.data_file if there else f"{run.data_file} (not there now)"))
    return Facts(rows, {"kind": "run", "began": began and began.model_dump()} | run.model_dump(mode="json"))


def _speed(run: RunStatus) -> Facts:
    """As measured, and what is left at that speed."""
    if run.images_per_second is None:
        return Facts([], {})
    parts = [f"{format_number(run.images_per_second)} images/s (median of the last log lines)"]
    if run.mfu is not None:
        parts.append(f"{run.mfu:.1%} model FLOP utilisation")
    if run.data_wait is not None:
        parts.append(f"{run.data_wait:.1%} of the time waiting for data")
    if run.seconds_left:
        parts.append(f"about {format_seconds(run.seconds_left)} left")
    return Facts([("measured speed", ", ".join(parts))], {})


def _disk(folder: Path) -> Facts:
    """Everything in the run's folder, and the checkpoints one by one."""
    whole = _sizes(path for path in folder.iterdir() if not path.name.startswith("."))
    checkpoints = _sizes(RunFolder(folder).find_checkpoints())
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in whole.items() if size)
    rows = [("size on disk", f"{format_bytes(sum(whole.values()))}: {listed}")]
    if checkpoints:
        steps = ", ".join(f"{int(name):,}" for name in checkpoints)
        rows.append(("checkpoints", f"{steps}; the last {format_bytes([*checkpoints.values()][-1])}"))
    return Facts(rows, {"size_on_disk": whole, "checkpoints": {str(int(k)): v for k, v in checkpoints.items()}})


def _sizes(paths: Iterable[Path]) -> dict[str, int]:
    """Bytes by name, in the order of the names; of a folder, all that is in it."""
    return {path.name: _size(path) for path in sorted(paths)}


def _size(path: Path) -> int:
    try:
        whole = path.is_file() or path.is_symlink()  # a link may lead round in a circle
        return path.lstat().st_size if whole else sum(_size(inside) for inside in path.iterdir())
    except FileNotFoundError:  # a checkpoint that was deleted meanwhile
        return 0
