"""What can be said about the Triton kernels without a GPU: `python -m tests.bench.triton_static`.

Compiles each kernel for sm_90 (H100, H200) with the ptxas in Triton's wheel and counts in its machine
code: registers, stack, shared memory and, for the loops of the two scans, instructions per 512 states
(one warp's work of one step, at 16 states a lane). Then the bytes, exps and instructions of a whole mixer,
and how long one H200 would need for each at least. All of it is counted, none of it measured.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

# H200: memory bytes, bf16 operations, exps (16 a multiprocessor and clock) and instructions (4) a second.
BANDWIDTH = 4.3e12
MATMUL = 790e12
EXPS = 132 * 16 * 1.83e9
ISSUE = 132 * 4 * 1.83e9


class Loop(NamedTuple):
    """An innermost loop that computes states."""

    steps: int  # of the sequence in one turn
    instructions: int  # per 512 states
    exps: int  # per 512 states
    spills: int  # loads and stores of spilled registers, in the whole loop body, as are the next ones
    barriers: int
    shuffles: int
    shared: int  # loads and stores of shared memory
    memory: int  # of global memory


class Statics(NamedTuple):
    """One kernel, compiled; ``loops`` as they come in the machine code."""

    registers: int
    stack: int  # bytes a thread, spilled registers among them
    shared: int  # bytes a program
    instructions: int
    loops: list[Loop]


def tools() -> Path | None:
    """The folder with Triton's own cuobjdump and nvdisasm; None where it has none."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return folder if all((folder / name).exists() for name in ("ptxas", "cuobjdump", "nvdisasm")) else None


def compile_all(dtype: str = "bf16", arch: int = 90, only: Collection[str] = (), N: int = 16) -> dict[str, Statics]:
    """Every kernel, or ``only`` some, for x in Triton's ``dtype``, specialised as on the model's tensors.

    ``arch`` is a compute capability: 80 is an A100, 89 an RTX 4090, 90 an H100, 100 a B200, 120 an RTX 5090.
    ``N`` is the number of states; with others than 16, the counts per 512 states are N / 16 times as many.
    """
    import triton.language as tl

    from discli.scan.triton import kernels as forward
    from discli.scan.triton import kernels_backward as backward
    from discli.scan.triton.backend import CHUNK

    shared = {"STATE": tl.float32}
    scan = {**shared, "N": N, "CHUNK": CHUNK}
    lanes = {"LANES": forward.LANES, "CHANNELS_PER_LANE": forward.CHANNELS_PER_LANE}
    walk = {**scan, **lanes, "SAVE": True, "BC_AHEAD": N <= 16 and forward.bc_ahead()}
    back = {**scan, "BLOCK": backward.BLOCK, "GROUP": backward.GROUP}
    capped = forward.SCAN_REGISTERS if N <= 16 else None
    # The kernel, its warps and constants, the steps in a turn of its loops (0: none to count) and its registers.
    kernels: dict[str, tuple[Any, int, dict[str, Any], int, int | None]] = {
        "conv_silu": (forward.conv_silu, 1, {**shared, "K": 4, "TOKENS": 32, "BLOCK": 64}, 0, None),
        "scan_forward": (forward.scan_forward, forward.SCAN_WARPS, walk, 1, capped),
        "gate_backward": (backward.gate_backward, 4, {**shared, "ROWS": 16, "BLOCK": 64}, 0, None),
        "scan_backward": (backward.scan_backward, backward.SCAN_WARPS, back, backward.GROUP, None),
        "conv_backward": (backward.conv_backward, 1, {**shared, "K": 4, "TOKENS": 64, "BLOCK": 64}, 0, None),
        "sum_partials": (backward.sum_partials, 4, {**shared, "PARTS": 16, "BLOCK": 128}, 0, None),
    }
    return {
        name: _compile(kernel, dtype, warps, constants, steps, maxnreg, arch)
        for name, (kernel, warps, constants, steps, maxnreg) in kernels.items()
        if not only or name in only
    }


# In the kernels, these point to numbers of the state's dtype, the other pointers to x's.
_STATE = ("weight", "bias", "A", "D", "BC", "states", "scratch", "dBC", "dparams", "partials")


def _compile(
    kernel: Any, dtype: str, warps: int, constants: dict[str, Any], steps: int, maxnreg: int | None, arch: int
) -> Statics:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    attributes = {}
    for param in kernel.params:
        name = param.name
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*fp32" if name.removesuffix("_ptr") in _STATE else f"*{dtype}"
        else:
            signature[name] = "i32"
        if name not in constants and not param.do_not_specialize:
            attributes[(param.num,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": warps, "maxnreg": maxnreg, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)

    folder = tools()
    assert folder is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = run(folder / "cuobjdump", "-res-usage", cubin.name)
        code = run(folder / "cuobjdump", "-sass", cubin.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    instructions = instructions_of(code)
    # A warp's 512 states are 16 of each lane; the forward kernel has two channels a lane.
    units = steps * constants.get("CHANNELS_PER_LANE", 1)
    loops = state_loops(instructions, steps, units) if steps else []
    return Statics(int(found[1]), int(found[2]), compiled.metadata.shared, len(instructions), loops)


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions_of(code: str) -> list[tuple[int, str]]:
    """(address, instruction) of cuobjdump's listing, predicates removed."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([^;]+?)\s*;", code)
    return [(int(address, 16), text) for address, text in lines]


def state_loops(instructions: list[tuple[int, str]], steps: int, units: int) -> list[Loop]:
    """The innermost loops with exps of states, by their backward branches.

    ``steps`` of the sequence and ``units`` times 512 states are in one turn of the loop.
    """
    jumps = [
        (int(target[1], 16), address)
        for address, text in instructions
        if (target := re.search(r"BRA.*?(0x[0-9a-f]+)", text)) and int(target[1], 16) < address
    ]
    loops = []
    for start, end in jumps:
        if any(start <= other_start and other_end < end for other_start, other_end in jumps):
            continue
        body = Counter(text.split()[0] for address, text in instructions if start <= address <= end)
        exps = body["MUFU.EX2"]
        if exps < 16:
            continue
        loop = Loop(
            steps=steps,
            instructions=round(body.total() / units),
            exps=round(exps / units),
            spills=_count(body, "LDL", "STL"),
            barriers=_count(body, "BAR", "WARPSYNC"),
            shuffles=_count(body, "SHFL"),
            shared=_count(body, "LDS", "STS"),
            memory=_count(body, "LDG", "STG"),
        )
        loops.append(loop)
    return loops


def _count(body: Counter[str], *names: str) -> int:
    return sum(count for name, count in body.items() if name.startswith(names))


class Work(NamedTuple):
    """What one mixer asks of the machine between in_proj and out_proj, in bytes and counts."""

    bytes: float
    floor_bytes: float  # were everything one kernel: inputs read once, results written once
    matmul: float
    exps: float
    instructions: float

    def milliseconds(self) -> str:
        names = ("bytes", "floor", "matrix products", "exps", "instructions")
        rates = (BANDWIDTH, BANDWIDTH, MATMUL, EXPS, ISSUE)
        return ", ".join(f"{n} {1e3 * w / r:.3f}" for n, w, r in zip(names, self, rates, strict=True))


def work(batch: int, length: int, d_inner: int, dt_rank: int, compiled: dict[str, Statics]) -> dict[str, Work]:
    """Training, bf16, N = 16, forward and backward: the formulas of `discli.scan.triton.backend`'s docstring."""
    from discli.scan.triton.backend import CHUNK
    from discli.scan.triton.kernels_backward import BLOCK, GROUP

    N = 16
    activation = batch * length * d_inner * 2
    steps = 2 * batch * length * d_inner
    chunks = 2 * -(-((length + 1) // 2) // CHUNK)
    states = 2 * batch * chunks * d_inner * N * 4
    partials = d_inner // BLOCK * 2 * batch * length * 2 * N * 4
    matmul = 2 * steps * (2 * N + 2 * dt_rank)
    twice = 2 - GROUP / CHUNK  # a chunk's last group is recomputed only once

    first, second = (loop.instructions for loop in compiled["scan_forward"].loops)
    ahead, back = (loop.instructions for loop in compiled["scan_backward"].loops)
    forward = (first + second) / 2
    backward = back + (twice - 1) * ahead
    return {
        "forward": Work(
            16 * activation + states, 3 * activation, matmul, steps * (N + 2.5), steps * N / 512 * forward
        ),
        "backward": Work(
            29 * activation + states + 2 * partials, 5 * activation, 2 * matmul,
            steps * (twice * (N + 1) + 1.5), steps * N / 512 * backward,
        ),
    }  # fmt: skip


def main() -> None:
    if tools() is None:
        print("This Triton brings no cuobjdump and nvdisasm: nothing to count.")
        return
    import triton

    print(f"Triton {triton.__version__}, sm_90, bf16, N = 16")
    compiled = compile_all()
    for name, kernel in compiled.items():
        print(
            f"{name}: {kernel.registers} registers, {kernel.stack} bytes of stack, {kernel.shared} bytes shared, "
            f"{kernel.instructions} instructions"
        )
        for loop in kernel.loops:
            print(
                f"    loop of {loop.steps} steps: {loop.instructions} instructions and {loop.exps} exps "
                f"per 512 states, {loop.spills} spills; a turn {loop.barriers} barriers, {loop.shuffles} shuffles, "
                f"{loop.shared} of shared and {loop.memory} of global memory"
            )
    for name, shape in {
        "DiS-L/2, 256 px, batch 32": (32, 258, 2048, 64),
        "DiS-H/2, 512 px, batch 32": (32, 1026, 3072, 96),
    }.items():
        for part, counted in work(*shape, compiled).items():
            print(f"{name}, {part}, at least ms: {counted.milliseconds()}")


if __name__ == "__main__":
    main()
