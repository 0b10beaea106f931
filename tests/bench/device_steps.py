"""The steps of `tests.bench.device`, in order of value: what each runs and what it notes down.

Nothing here needs diffusers, torch-fidelity or mamba-ssm; what is absent is named, not missed.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

_CONTENDERS = ("cuda", "triton", "mamba-ssm")
Note = Callable[[str, Any], None]
ONCE = "one launch"  # the step that `counters` watches, and no step for itself
_PACKAGES = ("torch", "triton", "numpy", "pydantic", "diffusers", "torch-fidelity", "mamba-ssm", "causal-conv1d")


@dataclass(frozen=True)
class Case:
    """Where a step runs: on the GPU at the shapes of the paper, or rehearsed on a CPU at tiny ones."""

    out: Path
    rehearse: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def mixers(self) -> dict[str, tuple[int, int, int]]:
        """Batch, tokens and embed_dim of the mixers to time, by name."""
        if self.rehearse:
            return {"tiny": (1, 4, 8)}
        return {"DiS-L/2 256 px": (32, 258, 1024), "DiS-H/2 512 px": (32, 1026, 1536)}

    def seconds(self, run: Callable[[], object], rounds: int = 20) -> float:
        """The median of ``rounds`` after three to warm up; by CUDA's events."""
        if self.rehearse:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        for _ in range(3):
            run()
        times = []
        for _ in range(rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times)

    def in_turn(self, runs: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Milliseconds of each, the contenders turn about: the least of three medians."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 if self.rehearse else 3):
            for name, run in runs.items():
                times[name].append(self.seconds(run, 7))
        return {name: 1e3 * min(some) for name, some in times.items()}

    def scans(self) -> dict[str, Any]:
        """The backends that run here, fastest expected first, by name."""
        from discli.scan.dispatch import load_backend

        found = {name: load_backend(name) for name in _CONTENDERS}
        return {name: module for name, module in found.items() if module.unavailable(self.device) is None}


class Step(NamedTuple):
    name: str
    what: str
    limit: float  # seconds
    run: Callable[[Case, Note], None]
    essential: bool = False  # without it, the steps after it say nothing


def rehearsal() -> None:
    """Makes ready for steps on a CPU: blocks are traced as for a GPU, but run as they are; graphs are emulated."""
    from tests import replay

    compile_as_ever = nn.Module.compile
    nn.Module.compile = lambda module, **how: compile_as_ever(module, backend="aot_eager", **how)  # type: ignore[method-assign,assignment]
    replay.on_a_cpu()


def machine(case: Case, note: Note) -> None:
    note("date", time.strftime("%Y-%m-%d"))
    note("python", platform.python_version())
    for package in _PACKAGES:
        try:
            note(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            note(package, "absent")
    from discli.scan import choose_backend
    from discli.scan.dispatch import load_backend

    chosen = choose_backend("auto", case.device)
    note("scan", f"{chosen.name} ({chosen.reason})")
    for name in _CONTENDERS:
        note(f"scan {name}", load_backend(name).unavailable(case.device) or "runs")
    if not case.rehearse:
        known = torch.cuda.get_device_properties(0)
        note("GPU", f"{known.name}, {known.multi_processor_count} multiprocessors, {known.total_memory >> 30} GiB")
    if shutil.which("nvidia-smi") and not case.rehearse:
        query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
        note("driver, clocks and power", " ".join(done.stdout.split()))


def ceilings(case: Case, note: Note) -> None:
    from tests.bench import device_kernels as kernels

    size = 1 << (10 if case.rehearse else 30)
    source = torch.zeros(size, dtype=torch.float32, device=case.device)
    target = torch.empty_like(source)
    note("copy, TB/s", 8 * size / case.seconds(partial(target.copy_, source)) / 1e12)
    del source, target
    n = 64 if case.rehearse else 8192
    a, b = (torch.randn(n, n, device=case.device).bfloat16() for _ in range(2))
    note("bf16 product, TFLOP/s", 2 * n**3 / case.seconds(lambda: a @ b) / 1e12)

    programs, block, turns = (2, 32, 2) if case.rehearse else (132 * 16, 1024, 4096)
    out = torch.empty(programs * block, device=case.device)
    spent = case.seconds(lambda: kernels.exps[(programs,)](out, turns, BLOCK=block))
    note("exps, T/s", programs * block * turns * 8 / spent / 1e12)
    turns = 2 if case.rehearse else 1 << 16
    number = torch.zeros(1, dtype=torch.int32, device=case.device)
    # Strides in numbers of 4 bytes: another line each time, beyond the 50 MB of L2 for memory, and odd, so that none
    # is visited twice before all are.
    for name, (entries, stride) in {"L1": (1 << 10, 33), "L2": (1 << 20, 33), "memory": (1 << 28, 4099)}.items():
        entries = 8 if case.rehearse else entries
        chain = (torch.arange(entries, dtype=torch.int32, device=case.device) + stride) % entries
        spent = case.seconds(lambda chain=chain: kernels.chase[(1,)](chain, number, turns, num_warps=1), 5)
        note(f"dependent load from {name}, ns", 1e9 * spent / turns)
    spent = case.seconds(lambda: kernels.barriers[(1,)](number, turns, num_warps=1), 5)
    note("barrier of one warp, ns", 1e9 * spent / turns)


def first_light(case: Case, note: Note) -> None:
    from tests.scan.cases import errors_against_reference, random_inputs, values_and_gradients

    shape = (1, 3, 8) if case.rehearse else (2, 17, 40)
    for name, module in case.scans().items():
        inputs = random_inputs(*shape, device=str(case.device))
        worst = max(errors_against_reference(module.bidirectional_scan, inputs).values())
        note(f"{name}, float32, largest error", worst)
        if name != "mamba-ssm" and not worst <= 1e-5:
            raise AssertionError(f"{name} is off by {worst:.1e}")
    if case.rehearse:
        return
    batch, length, width = 2, 258, 2048
    inputs = random_inputs(
        batch, length, width, dtype=torch.bfloat16, param_dtype=torch.float32, device=str(case.device)
    )
    from discli.scan import reference

    exact = inputs.map(lambda t: t.detach().double().requires_grad_())
    truth = values_and_gradients(reference.bidirectional_scan, exact)
    for name, module in case.scans().items():
        found = values_and_gradients(module.bidirectional_scan, inputs)
        errors = [((found[k].double() - want).abs().max() / want.abs().max()).item() for k, want in truth.items()]
        note(f"{name}, bf16 at {length} x {width}, largest error", max(errors))
        if name != "mamba-ssm" and not max(errors) <= 5e-2:
            raise AssertionError(f"{name} is off by {max(errors):.1e}")


def native_tests(case: Case, note: Note) -> None:
    """The scan's own tests, dealt out to several processes: most of their time is compiling."""
    import pytest

    class Found:
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            names.extend(item.nodeid for item in items if item.get_closest_marker("slow") is None)

    names: list[str] = []
    options = ["-p", "no:cacheprovider"]
    pytest.main([*options, "--collect-only", "-q", "tests/scan/triton", "tests/scan/cuda"], plugins=[Found()])
    if case.rehearse:
        names = [name for name in names if "float64_inputs" in name]
    if not names:
        raise AssertionError("pytest found no tests")
    hands = 1 if case.rehearse else 8
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *names[hand::hands]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for hand in range(hands)
        if names[hand::hands]
    ]
    told = [process.communicate()[0] for process in running]
    print(*told, sep="\n")
    failed = [line.split(" ")[1] for text in told for line in text.splitlines() if line.startswith("FAILED ")]
    note("tests", len(names))
    note("failed", failed)
    if failed or any(process.returncode for process in running):
        raise AssertionError(f"{len(failed)} of {len(names)} failed")


def _mixer(case: Case, width: int, tokens: int, backend: str) -> nn.Module:
    from discli.model.mixers import mamba
    from discli.model.order import token_orders
    from discli.recipe.choices import build
    from discli.recipe.load import load_recipe
    from discli.recipe.size import Size

    spec = load_recipe("dis-l-2", [f"model.embed_dim={width}"]).model.model_copy(update={"scan": backend})
    torch.manual_seed(0)
    grid = Size.square(math.isqrt(tokens))
    orders = token_orders(spec.scan_order, block=0, extra_tokens=tokens - grid.area)
    mixer = build(spec.mixer, spec, orders)
    for order in orders:
        order.lay_out(grid)
    with torch.no_grad():
        for part in mixer.modules():
            if isinstance(part, mamba.SSMDirection):
                part.init_weights()
    return mixer.to(case.device)


def _passes(case: Case, mixer: nn.Module, batch: int, tokens: int) -> dict[str, Callable[[], object]]:
    """Forward without gradients, and forward with backward, in bf16 as in training."""
    u = torch.randn(batch, tokens, mixer.out_proj.out_features, device=case.device, requires_grad=True)
    dy = torch.randn_like(u)
    autocast = partial(torch.autocast, case.device.type, torch.bfloat16, enabled=not case.rehearse)

    def forward() -> None:
        with torch.no_grad(), autocast():
            mixer(u)

    def both() -> None:
        with autocast():
            y = mixer(u)
        torch.autograd.grad(y, [u, *mixer.parameters()], dy.to(y.dtype))

    return {"forward": forward, "forward and backward": both}


def kernels(case: Case, note: Note) -> None:
    """Microseconds of each kernel of a mixer, by PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CPU if case.rehearse else ProfilerActivity.CUDA
    rounds = 1 if case.rehearse else 5
    for shape, (batch, tokens, width) in case.mixers.items():
        for name in case.scans():
            both = _passes(case, _mixer(case, width, tokens, name), batch, tokens)["forward and backward"]
            both()
            with profile(activities=[kind]) as found:
                for _ in range(rounds):
                    both()
                if not case.rehearse:
                    torch.cuda.synchronize()
            times: Counter[str] = Counter()
            for event in _events(found, case):
                spent = event.self_cpu_time_total if case.rehearse else event.self_device_time_total
                times[event.name.split("(")[0][-60:]] += spent / rounds
            for kernel, microseconds in times.most_common(12):
                note(f"{shape}, {name}, {kernel}, us", float(microseconds))


def _events(found: Any, case: Case) -> list[Any]:
    """Kernels and copies, without the calls that launch them; on a CPU all operations."""
    kind = torch.autograd.DeviceType.CPU if case.rehearse else torch.autograd.DeviceType.CUDA
    return [event for event in found.events() if event.device_type == kind]


def mixers(case: Case, note: Note) -> None:
    """in_proj to out_proj under autocast; mamba-ssm's two calls are what to beat three times."""
    for shape, (batch, tokens, width) in case.mixers.items():
        passes = {name: _passes(case, _mixer(case, width, tokens, name), batch, tokens) for name in [*case.scans()]}
        for action in ("forward", "forward and backward"):
            times = case.in_turn({name: actions[action] for name, actions in passes.items()})
            for name, milliseconds in times.items():
                note(f"{shape}, {action}, {name}, ms", milliseconds)
            ours = [ms for name, ms in times.items() if name != "mamba-ssm"]
            if "mamba-ssm" in times and ours:
                note(f"{shape}, {action}, times as fast as mamba-ssm (target 3)", times["mamba-ssm"] / min(ours))
            if not case.rehearse:
                torch.cuda.empty_cache()


def one_launch(case: Case, note: Note) -> None:
    """A forward and a backward pass, to be watched by another program."""
    from tests.scan.cases import random_inputs, values_and_gradients

    shape = (1, 5, 40) if (case.out / "small").exists() or case.rehearse else (32, 258, 2048)
    name, module = next(iter(case.scans().items()))
    inputs = random_inputs(*shape, dtype=torch.bfloat16, param_dtype=torch.float32, device=str(case.device))
    values_and_gradients(module.bidirectional_scan, inputs)
    note("scan", name)


def counters(case: Case, note: Note) -> None:
    """What stalls the scans (ncu), and whether they touch what is not theirs (compute-sanitizer)."""
    sections = [part for name in ("SpeedOfLight", "WarpStateStats", "Occupancy") for part in ("--section", name)]
    command = [sys.executable, "-m", "tests.bench.device", "--out", str(case.out), "--child", ONCE]
    if case.rehearse:
        one_launch(case, note)
    small = case.out / "small"
    watched = {
        "ncu": (["ncu", "--clock-control", "none", "-k", "regex:scan_", "-c", "4", *sections], False),
        "memcheck": (["compute-sanitizer", "--tool", "memcheck"], True),
        "racecheck": (["compute-sanitizer", "--tool", "racecheck"], True),
    }
    for name, (watcher, is_small) in watched.items():
        if shutil.which(watcher[0]) is None or case.rehearse:
            note(name, f"{watcher[0]} is absent")
            continue
        if is_small:
            small.touch()
        else:
            small.unlink(missing_ok=True)
        done = subprocess.run([*watcher, *command], capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr)
        wanted = ("Duration", "No Eligible", "Registers Per", "Achieved Occupancy", "Stall", "SUMMARY", "Throughput")
        lines = [" ".join(line.split()) for line in done.stdout.splitlines() if any(word in line for word in wanted)]
        note(name, lines[:40] if done.returncode == 0 else f"failed: {done.returncode}")


def blocks(case: Case, note: Note) -> None:
    """A compiled block of DiS-L beside one of a DiT of equal forward FLOPs, from 256 to 16,384 tokens."""
    from tests.bench import model

    preset = "dis-s" if case.rehearse else "dis-l"
    args = argparse.Namespace(
        device=str(case.device), batch=1 if case.rehearse else None, rounds=1 if case.rehearse else 7, scans=[],
        block=True, compile=not case.rehearse, bf16=not case.rehearse, actions=[],
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for tokens in (4, 16) if case.rehearse else (256, 1024, 4096, 16384):
        rows += model.measure(preset, tokens, args)
        for row in rows[-2:]:
            note(f"{tokens:,} tokens, batch {row['batch']}, {row['model']}, ms", row["ms"])
    for asked, number in model.judged(rows, preset).items():
        note(asked, number)


def _network(case: Case, **model: Any) -> Any:
    from discli.model import DiS
    from discli.recipe.load import load_recipe

    settings = {"embed_dim": 16, "depth": 3, "d_state": 4} if case.rehearse else {"depth": 3}
    overrides = [f"model.{key}={value}" for key, value in (settings | model).items()]
    recipe = load_recipe("cifar10-dis-s-2-cond", [*overrides, *(["data.resolution=8"] if case.rehearse else [])])
    torch.manual_seed(0)
    return recipe, DiS.from_recipe(recipe).to(case.device)


def _given(case: Case, recipe: Any, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(batch, *recipe.input_shape, device=case.device)
    return x, torch.full((batch,), 500, device=case.device), torch.zeros(batch, dtype=torch.int64, device=case.device)


def compiled(case: Case, note: Note) -> None:
    """Blocks as Inductor compiles them beside eager ones, and sampling's CUDA graphs at two batch sizes."""
    from discli.model.compiled import with_compiled_blocks
    from discli.sampling.load import as_sampled

    recipe, network = _network(case)
    start = time.perf_counter()
    twin = with_compiled_blocks(network, case.device)
    given = _given(case, recipe, 2 if case.rehearse else 32)
    gradients = []
    for one in (network, twin):
        out = one(*given)
        gradients.append([out.detach(), *torch.autograd.grad(out.square().sum(), list(network.parameters()))])
    note("seconds to the first compiled gradients", time.perf_counter() - start)
    worst = max(((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item() for a, b in zip(*gradients, strict=True))
    note("compiled, largest difference of values and gradients", worst)
    network.eval().requires_grad_(False)
    settings = recipe.sample.model_copy(update={"compile": True, "precision": "fp32"})
    eager = as_sampled(network, case.device, settings.model_copy(update={"compile": False}))
    graphs = as_sampled(network, case.device, settings)
    worst = 0.0
    with torch.no_grad():
        for batch in (2, 3) if case.rehearse else (16, 24):
            for _ in range(1 if case.rehearse else 4):
                given = _given(case, recipe, batch)
                want = eager(*given)
                worst = max(worst, ((graphs(*given) - want).abs().max() / want.abs().max()).item())
    note("sampling's graphs, largest difference", worst)
    if not worst <= 1e-2:
        raise AssertionError("the graphs answer otherwise than the network")


def launches(case: Case, note: Note) -> None:
    """A training step of DiS-S/2 at CIFAR's size: kernels launched, and time beside them."""
    from torch.profiler import ProfilerActivity, profile

    from discli.runtime.rng import RngStream, normal

    recipe, network = _network(case, **({} if case.rehearse else {"depth": 25}))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    given = _given(case, recipe, 2 if case.rehearse else 128)
    index = torch.arange(len(given[0]), device=case.device)

    def step() -> None:
        with torch.autocast(case.device.type, torch.bfloat16, enabled=not case.rehearse):
            out = network(*given)
        out.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    draw = partial(normal, 0, RngStream.NOISE, 1, index, tuple(given[0].shape[1:]))
    note("step, ms", 1e3 * case.seconds(step, 10))
    note("its noise, ms", 1e3 * case.seconds(draw, 10))
    kind = ProfilerActivity.CPU if case.rehearse else ProfilerActivity.CUDA
    for name, run in {"step": step, "noise": draw}.items():
        with profile(activities=[kind]) as found:
            run()
        note(f"kernels of a {name}", len(_events(found, case)))


def _digits(case: Case) -> Path:
    from discli.cli.quickstart import unpack_digits
    from discli.data.encode import encode

    digits, data = case.out / "digits", case.out / "digits.h5"
    if not data.exists():
        unpack_digits(digits)
        encode(digits, 8 if case.rehearse else 32, codec="rgb", out=data, workers=0)
    return data


def graphs(case: Case, note: Note) -> None:
    """Trainings of DiS-S/2 at CIFAR's size with a step as one CUDA graph and without: the same bits, in what time?"""
    from discli.runs.logs import read_log
    from discli.training.train import train
    from tests.tiny_run import content

    tiny = ["model.embed_dim=16", "model.depth=3", "model.d_state=4", "data.resolution=8", "train.batch_size=4"]
    steps = 4 if case.rehearse else 60
    settings = [
        f"train.steps={steps}", f"train.log_every={steps // 2}", f"train.checkpoint_every={steps}",
        "train.preview_every=0", "train.holdout_every=0", "train.lr_schedule={warmup_steps=2}", "train.tracker=none",
        *(tiny if case.rehearse else ["train.batch_size=128"]),
    ]  # fmt: skip
    found = {}
    for name, more in {"without": [], "as a graph": ["train.cuda_graphs=true"]}.items():
        run = case.out / f"graphs {name}"
        shutil.rmtree(run, ignore_errors=True)
        train(
            "cifar10-dis-s-2-cond", data=_digits(case), out=run, overrides=[*settings, *more], device=str(case.device)
        )
        found[name] = content(run, steps)
        note(f"{name}, images a second", read_log(run / "speed.jsonl")[-1]["images_per_second"])
        note(f"{name}, most memory, GB", read_log(run / "speed.jsonl")[-1]["peak_memory"] / 1e9)
    same = found["without"] == found["as a graph"]
    note("the same bits", same)
    if not same:
        raise AssertionError("a step as a graph computes otherwise")


def resume(case: Case, note: Note) -> None:
    """Training that was killed goes on with the same bits."""
    from discli.training.verify_resume import verify_resume

    data = _digits(case)
    smaller = ["model.embed_dim=16", "model.depth=3", "data.resolution=8"] if case.rehearse else []
    if not case.rehearse:
        smaller = ["data.resolution=32", "model.depth=5"]
    same = verify_resume("quickstart", data=data, overrides=smaller, device=str(case.device))
    note("files of the same bits", sum(same.values()))
    note("other files", [name for name, equal in same.items() if not equal])
    if not all(same.values()):
        raise AssertionError("a resumed run differs")


def sampling(case: Case, note: Note) -> None:
    """`discli sample` beside the authors' way of sampling."""
    from tests.bench import sample

    argv = ["sample", "--json", "--rounds", "1", "--fast-steps", "--device", str(case.device)]
    argv += ["--recipe", "quickstart", "--n", "8", "--steps", "2"] if case.rehearse else []
    argv += [] if case.rehearse else ["--recipe", "dis-l-2", "--n", "64", "--steps", "10"]
    said = io.StringIO()
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(said):
        sample.main()
    found = json.loads(said.getvalue())
    note("overhead over the bare network", found["overhead"])
    note("images a second", found["images_per_second"])
    note("times the authors' way (target 5)", found["times_the_authors"])


STEPS: Sequence[Step] = (
    Step("machine", "what is here", 30, machine),
    Step("ceilings", "what this GPU can do at most", 25, ceilings),
    Step("first light", "the scans beside float64", 45, first_light, essential=True),
    Step("native tests", "the scans' tests, natively", 90, native_tests),
    Step("kernels", "time of each kernel", 45, kernels),
    Step("mixers", "mixers beside mamba-ssm's", 45, mixers),
    Step("counters", "what stalls the scans", 60, counters),
    Step("blocks", "blocks beside a DiT's", 75, blocks),
    Step("compiled", "Inductor and CUDA graphs", 50, compiled),
    Step("resume", "kill and resume", 40, resume),
    Step("graphs", "a training step as one CUDA graph", 50, graphs),
    Step("launches", "kernels of a small network's step", 30, launches),
    Step("sampling", "sampling beside the authors'", 35, sampling),
    Step(ONCE, "what the counters watch, once", 30, one_launch),
)
