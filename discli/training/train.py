"""``discli train``: recipe -> data -> model -> loss -> optimizer -> checkpoint, from top to bottom.

A run that is killed at any moment and started again with the same command ends with the same bits.
Three things make it so: every random number is addressed by (seed, stream, step, place in the
batch) instead of drawn in turn; which samples a step sees is a function of the step; and weights,
averages, optimizer and the open log window are written together, atomically.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from discli.data.find import data_for
from discli.data.holdout import split_of
from discli.data.store import open_store
from discli.evaluation.extractor import find_network
from discli.recipe import Recipe
from discli.runs.description import Take
from discli.runs.run import Run, what_to_train
from discli.runs.sessions import first_precision
from discli.runtime.devices import pick_device
from discli.training.begin import Beginning, frozen
from discli.training.engine import Engine
from discli.training.interrupts import Interrupts
from discli.training.trainer import Trainer


def train(
    recipe: Recipe | str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    dry_run: bool = False,
    begin_from: str | Path | None = None,
    take: Take | None = None,
) -> Path:
    """Train, or resume, the run that ``recipe`` (or the file, or shipped recipe, of that name) describes.

    ``recipe`` may also be a run's folder, or its name below ``runs/``: that run is resumed as it was started.
    Returns the run's folder: ``out``, by default ``runs/<recipe name>``. ``data`` is a file of
    ``discli encode`` and wins over the recipe's ``data.file``; without either, a file in the current folder that
    fits is taken. ``device`` is a GPU's name or "cpu", by default a GPU where there is one. ``dry_run`` checks
    all, says what the run takes and writes nothing.

    ``begin_from`` is a trained model: a run's folder or its name below ``runs/``, a checkpoint, or a .safetensors
    of ``discli export``. Its weights are the run's first ones, as far as the networks have them in common
    (`discli.model.adapt`): the averages of it ("ema", the default of ``take``), its plain weights ("weights"), or
    "both", each for what they are. Raises DiscliError before the first step where recipe and
    data do not fit, and `discli.training.interrupts.TrainingStoppedError` (status 75) after a checkpoint when
    asked to stop by SIGTERM, SIGUSR1 or Ctrl-C.
    """
    task = what_to_train(recipe, data, out, overrides, begin_from, take)
    recipe, folder = task.recipe, task.folder
    file = data_for(recipe, task.file, folder)
    store = open_store(file, cache="ram" if recipe.data.cache == "ram" else "none")
    split_of(recipe, store)  # refused before anything is written, as are these
    if recipe.train.score.every:
        find_network(recipe.train.score.features).check_size(*recipe.data.resolution)
    beginning = Beginning(task.source, task.take, recipe, store.contract) if task.source else None
    began = beginning.began if beginning else task.began
    still = frozen(recipe, began)

    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())  # being asked to stop while starting is asking, too
        engine = Engine(
            recipe.train,
            folder,
            pick_device(device) if device is not None else None,
            asked_to_stop=lambda: interrupts.received is not None,
            began_with=first_precision(folder),
        )
        # Only the main process writes; the others learn of a refusal by its absence.
        contract = store.contract.as_used_by(recipe)
        run = Run(folder, recipe, contract, file, task.command, began) if engine.is_main else None
        if run and dry_run:
            run.check()
        elif run:
            stack.enter_context(run)
        engine.barrier()
        trainer = Trainer(recipe, store, engine, folder, run, interrupts, beginning, still)
        if run and beginning:
            beginning.say(recipe)
        if run:
            trainer.say_what_it_takes(file, goes_on=began is not None)
        if dry_run:
            trainer.dry_run(file)
            return folder
        if run:
            trainer.open_logs(stack, run, file)
        trainer.loop()
        engine.close()
    return folder
