"""``discli train --from``: a run's first weights, made from those of a trained model."""

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from rich.table import Table
from rich.text import Text
from torch import Tensor

from discli.model import DiS, empty_network
from discli.model.adapt import Trained, adapt
from discli.model.lora import is_thin, merge_lora, plain_name
from discli.recipe import DataContract, Recipe
from discli.recipe.codec import CodecIdentity
from discli.runs.checkpoint import read_description
from discli.runs.description import Began, Part, Take, read_began
from discli.runs.verify import verify_checkpoint
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError, did_you_mean
from discli.runtime.files import sha256_of
from discli.sampling.load import find_weights, read_weights
from discli.training.ema import ConstantEma, PowerEma
from discli.training.engine import fill


class Beginning:
    """A trained model's weights as a recipe's network needs them; ``began`` is what the run keeps of it.

    Raises DiscliError where ``source`` is no model, or there is no way from its network to the recipe's.
    """

    def __init__(self, source: Path, take: Take, recipe: Recipe, contract: DataContract) -> None:
        if take == "both" and recipe.train.ema.name == "power":
            raise DiscliError(
                '--take both: averages of train.ema = "power" begin anew with the weights after the first step.',
                "Take one of them: --take ema, or --take weights.",
            )
        averages = find_weights(source)
        weights = averages if take == "ema" else _plain_weights(averages, take)
        old, old_contract, step, metadata = read_description(averages)

        def adapted(file: Path) -> tuple[dict[str, Tensor], list[Part]]:
            names = old_contract.class_names if old.model.num_classes else ()
            trained = Trained(merge_lora(read_weights(file)), old, names, str(source))
            return adapt(trained, recipe, contract.class_names if recipe.model.num_classes else ())

        self._weights, parts = adapted(weights)
        self._averages = adapted(averages)[0] if take == "both" else self._weights
        if recipe.model.lora is not None:
            parts.append(_lora(recipe))
        if old.model.lora is not None:
            parts[0] = parts[0].model_copy(update={"why": f"{parts[0].why}, LoRA merged"})
        parts += _latents(old_contract.codec, contract.codec)
        self.began = Began(
            source=str(source.resolve()),
            take=take,
            file=str(weights.resolve()),
            sha256=sha256_of(weights),
            step=step,
            parts=parts,
            before=read_began(metadata),
        )

    def into(self, network: DiS) -> None:
        """Before the network is wrapped or sharded."""
        _fill(dict(network.named_parameters()), self._weights)

    def into_averages(self, ema: ConstantEma | PowerEma) -> None:
        """All of them."""
        for average in ema.averages.values():
            _fill(average, self._averages)

    def say(self, recipe: Recipe) -> None:
        """On stderr, as a table."""
        stderr.print(f"Begins from {self.began} ({self.began.file}).")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for part in self.began.parts:
            table.add_row(*map(Text, (part.how, part.what, part.why)))
        if names := frozen(recipe, self.began):
            count = sum(p.numel() for name, p in empty_network(recipe).named_parameters() if name in names)
            table.add_row("frozen", f"{len(names):,} tensors", f"{count:,} parameters keep these values")
        stderr.print(table, soft_wrap=False)


def frozen(recipe: Recipe, began: Began | None) -> set[str]:
    """Names of the parameters that training leaves as they are.

    With LoRA all but A and B and what was changed, or is new, in the trained model; and what ``train.freeze`` says.
    Raises DiscliError for a pattern that matches nothing, where nothing is left, and for LoRA of no trained model.
    """
    lora = recipe.model.lora is not None
    if not lora and not recipe.train.freeze:
        return set()
    if lora and began is None:
        raise DiscliError(
            "model.lora trains thin matrices beside those of a trained model, and there is none.",
            "Name one: --from RUN, or leave model.lora out.",
        )
    names = [name for name, _ in empty_network(recipe).named_parameters()]
    still: set[str] = set()
    if lora and began is not None:
        trained = {name for part in began.parts if part.how in ("changed", "new") for name in part.names}
        still = {name for name in names if plain_name(name) not in trained}
    for pattern in recipe.train.freeze:
        matched = {name for name in names if fnmatchcase(plain_name(name), pattern)}
        if not matched:
            levels = pattern.count(".")
            known = {".".join([*plain_name(name).split(".")[:levels], "*"]) for name in names}
            near = did_you_mean(pattern, known) or f"Names are such as {names[0]} and {plain_name(names[-1])}."
            raise DiscliError(f"train.freeze: no parameter is called {pattern}.", near)
        still |= matched
    if len(still) == len(names):
        raise DiscliError("train.freeze leaves no parameter to train.", "Take a pattern away.")
    return still


def freeze(network: DiS, names: Collection[str]) -> None:
    """Before the network is wrapped or sharded."""
    for name in names:
        network.get_parameter(name).requires_grad_(False)


def _fill(targets: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, target in targets.items():
        if plain_name(name) in weights:
            fill({name: target}, {name: weights[plain_name(name)]})


def _lora(recipe: Recipe) -> Part:
    network = empty_network(recipe)
    names = [name for name, _ in network.named_parameters() if is_thin(name)]
    assert recipe.model.lora is not None
    count = sum(network.get_parameter(name).numel() for name in names)
    why = f"on {len(names) // 2:,} matrices, 0 at first: {count:,} parameters to train"
    return Part(how="new", what=f"LoRA of rank {recipe.model.lora.rank}", why=why, names=names)


def _latents(old: CodecIdentity, new: CodecIdentity) -> list[Part]:
    if old.statistics == new.statistics:
        return []
    return [Part(how="changed", what="latents", why="normalised as the new file's are, not the old one's", names=[])]


def _plain_weights(averages: Path, take: Take) -> Path:
    file = averages.with_name("model.safetensors")
    fault = verify_checkpoint(averages.parent, [file.name])
    if fault is not None or not file.is_file():
        raise DiscliError(
            f"--take {take}: there are no whole weights beside {averages} ({fault or f'{file.name} is missing'}).",
            "Leave --take out for the averages.",
        )
    return file
