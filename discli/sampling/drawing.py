"""What the page of ``discli demo`` draws: to the bit what ``discli sample`` does with the same settings.

Nothing here knows of a browser: a form comes in as it was filled in, and files come out.
"""

import shlex
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from discli.data.contact_sheet import by_class, save_image, strip
from discli.recipe.sample import SAMPLERS
from discli.runs.layout import run_of
from discli.runs.manifest import write_manifest
from discli.runtime.errors import DiscliError
from discli.sampling.folder import check_count
from discli.sampling.generate import TRAJECTORY_IMAGES, frames_of, states_of
from discli.sampling.load import LoadedModel
from discli.sampling.plan import SamplingPlan, plan_sampling
from discli.sampling.settings import SampleSettings, parse_classes
from discli.sampling.sheet import sheet_of
from discli.sampling.writers import open_writer

MOST_IMAGES, MOST_STEPS = 64, 1000  # a page is for looking: thousands are the command line's
_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same images make the same file

Typed = str | float | None  # a field of a form; None or "": left empty


@dataclass(frozen=True)
class Form:
    """A drawing as it was asked for. What was left empty is as the model has it."""

    n: Typed = None
    seed: Typed = None
    classes: Typed = None
    cfg_scale: Typed = None
    steps: Typed = None
    sampler: Typed = None


@dataclass
class Ticket:
    """Of a drawing that was asked for: whether it has begun, and whether it is still wanted."""

    stopped: bool = False
    _begun: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> bool:
        """False where it was stopped while it waited."""
        with self._lock:
            self._begun = not self.stopped
            return self._begun

    def stop(self) -> bool:
        """False where it has begun: it ends after its step, and whoever draws says so, after all else it said."""
        with self._lock:
            self.stopped = True
            return not self._begun


@dataclass(frozen=True)
class Progress:
    """After a step of a group of images."""

    done: int  # steps, of all groups together
    total: int
    images: int
    seconds: float  # since the first of them was taken, which may have waited for a compiler
    left: float  # seconds; infinite until there is a rate

    @property
    def rate(self) -> float:
        """Images a second; 0 until there is one."""
        return self.images * (self.done - 1) / self.total / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Drawn:
    """What ``command`` leaves in the current folder, packed into ``archive``; the first two are in it too."""

    sheet: Path
    strip: Path
    archive: Path
    images: int
    seconds: float


@dataclass(frozen=True)
class Easel:
    """A model that is drawn from again and again, by one at a time.

    ``run`` and ``device`` are as a command line has them. Raises DiscliError for a model that cannot be sampled from.
    """

    model: LoadedModel
    run: str
    device: str | None = None
    closing: threading.Event = field(default_factory=threading.Event)  # set: whatever is drawn ends after its step
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _drawings: set[int] = field(default_factory=set)  # under way, by what identifies their generators

    @property
    def name(self) -> str:
        """Of the run, or of the file of weights."""
        found = run_of(self.model.checkpoint.resolve())
        return found.stem if found.suffix == ".safetensors" else found.name

    @property
    def busy(self) -> bool:
        """Whether anything is being drawn."""
        return bool(self._drawings)

    @property
    def samplers(self) -> list[str]:
        """Those that fit the model."""
        process = self.model.recipe.diffusion.objective.process
        return [name for name, spec in SAMPLERS.items() if process in spec.fits]

    @property
    def classes(self) -> list[tuple[str, str]]:
        """(for people, for --classes) of every choice; none where the model has no classes."""
        names, count = self.model.contract.class_names, self.model.recipe.model.num_classes
        if not count:
            return []
        found = [("at random", "random"), ("all in turn", "balanced")]
        for number in range(count):
            name = names[number] if number < len(names) else str(number)
            # Of two with one name, or one that is another's number, the first is meant.
            fitting = next((text for text in (name, str(number)) if self._means(text, number)), None)
            found += [(name, fitting)] if fitting is not None else []
        return found

    @cached_property
    def defaults(self) -> Form:
        """A form filled in as the model has it: a group of images, for fewer cost as much."""
        plan, sample = plan_sampling(self.model), self.model.recipe.sample
        return Form(
            n=min(plan.model_batch, MOST_IMAGES),
            seed="0",
            classes=self.classes[0][1] if self.classes else None,
            cfg_scale=sample.cfg_scale,
            steps=sample.steps,
            sampler=sample.sampler.name,
        )

    def plan(self, form: Form) -> tuple[SamplingPlan, int]:
        """What is to be drawn, and how many. Raises DiscliError as the command line does."""
        defaults = self.defaults
        n, seed, steps = (
            _whole(flag, getattr(form, key), getattr(defaults, key))
            for key, flag in (("n", "-n"), ("seed", "--seed"), ("steps", "--steps"))
        )
        check_count(n)
        for flag, asked, most in (("-n", n, MOST_IMAGES), ("--steps", steps, MOST_STEPS)):
            if asked > most:
                raise DiscliError(
                    f"{flag} {asked}: this page goes up to {most}.", f"On the command line: {self.command(form)}"
                )
        settings = SampleSettings(steps=steps, sampler=_text(form.sampler, defaults.sampler))
        if self.classes:
            settings["cfg_scale"] = _number("--cfg-scale", form.cfg_scale, defaults.cfg_scale)
        classes = _text(form.classes, defaults.classes) or "random"
        return plan_sampling(self.model, settings, classes=classes, seed=seed), n

    def command(self, form: Form) -> str:
        """The command line that draws the same."""
        words = ["discli", "sample", self.run]
        flags = ("-n", "n"), ("--classes", "classes"), ("--cfg-scale", "cfg_scale"), ("--steps", "steps")
        defaults = self.defaults
        for flag, key in (*flags, ("--sampler", "sampler"), ("--seed", "seed")):
            if key in ("classes", "cfg_scale") and not self.classes:
                continue
            value = getattr(form, key)
            value = getattr(defaults, key) if value in (None, "") else value
            # A form's 12.0 is 12; of any other number all digits count.
            words += [flag, f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)]
        return shlex.join([*words, *(["--device", self.device] if self.device else []), "--show-steps"])

    def draw(self, form: Form, folder: Path, ticket: Ticket | None = None) -> Iterator[Progress | Drawn]:
        """Yields after every step, and at last what was drawn, in the empty ``folder``.

        Raises DiscliError before the first step, for a form that cannot be drawn. Two at once take turns, step by
        step. Ends early, with nothing drawn, when ``ticket`` is stopped or ``closing`` set.
        """
        plan, n = self.plan(form)
        me = id(form)
        self._drawings.add(me)
        try:
            yield from self._draw(plan, n, folder, ticket or Ticket())
        finally:
            self._drawings.discard(me)

    def _draw(self, plan: SamplingPlan, n: int, folder: Path, ticket: Ticket) -> Iterator[Progress | Drawn]:
        started = time.monotonic()
        samples = folder / "samples"
        writer, size, groups = open_writer("png", samples), plan.model_batch, plan.groups(n)
        samples.mkdir()
        with self._turn:
            network, weak = plan.networks()
        first: list[Tensor] = []  # what the strip shows
        done, total, since = 0, len(groups) * plan.settings.steps, 0.0
        for group in groups:
            states = states_of(plan, network, weak, group)
            x0: Tensor | None = None
            while True:
                with self._turn:
                    state = next(states, None)
                if ticket.stopped or self.closing.is_set():
                    return
                if state is None:
                    break
                x0 = state
                first += [state[:TRAJECTORY_IMAGES].clone()] if group == 0 else []
                done += 1
                since = since or time.monotonic()
                taken = time.monotonic() - since
                left = taken / (done - 1) * (total - done) if done > 1 else float("inf")
                yield Progress(done, total, n, taken, left)
            assert x0 is not None
            kept = min(size, n - group * size)
            numbers = list(range(group * size, group * size + kept))
            with self._turn:
                writer.write(numbers, plan.decode(numbers, x0[:kept]).cpu())

        manifest = plan.manifest(n, "png")
        writer.finish(n, manifest.classes)
        write_manifest(samples, manifest.model_copy(update={"finished": True}))
        sheet, steps = folder / "samples.png", folder / "samples.steps.png"
        archive = folder / f"{self.name}-seed-{plan.seed}.zip"
        rows = by_class(range(n), manifest.classes, self.model.contract.class_names, None)
        save_image(sheet_of(plan, rows, writer.read, None), sheet)
        with self._turn:
            save_image(strip(frames_of(plan, first, self.model.load_codec().decode)), steps)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for file in (*sorted(samples.iterdir()), sheet, steps):
                packed.writestr(zipfile.ZipInfo(str(file.relative_to(folder)), _DATE), file.read_bytes())
        yield Drawn(sheet, steps, archive, n, time.monotonic() - started)

    def _means(self, text: str, number: int) -> bool:
        contract, count = self.model.contract, self.model.recipe.model.num_classes
        try:
            return parse_classes(text, count, contract.class_names) == (number,)
        except DiscliError:
            return False


def _text(typed: Typed, otherwise: Typed) -> str | None:
    found = otherwise if typed in (None, "") else typed
    return None if found is None else str(found)


def _number(flag: str, typed: Typed, otherwise: Typed) -> float:
    found = _text(typed, otherwise)
    try:
        return float(found or "")
    except ValueError:
        raise DiscliError(f"{flag} {found}: not a number.", f"Example: {flag} 1.5") from None


def _whole(flag: str, typed: Typed, otherwise: Typed) -> int:
    """12, "12" and a form's 12.0 are 12."""
    found = f"{typed:.0f}" if isinstance(typed, float) and typed.is_integer() else _text(typed, otherwise)
    try:
        return int(found or "")
    except ValueError:
        raise DiscliError(f"{flag} {found}: not a whole number.", f"Example: {flag} 20") from None
