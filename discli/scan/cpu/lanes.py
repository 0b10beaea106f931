"""Vectors of floats as a numba type, so that a kernel can say which channel lives in which lane.

LLVM vectorises plain loops over the wrong axis here, and numba's wheel has no vector exp. With
`Lanes` a kernel is ordinary Python over addresses (int64) and vectors; each function below becomes
one or two machine instructions. LANES is 16, 8 or 4: what one register of this processor holds.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

_features = config.CPU_FEATURES or binding.get_host_cpu_features().flatten()
LANES = 16 if "+avx512f" in _features else 8 if "+avx" in _features else 4
FLOAT, HALF = 4, 2  # bytes
VECTOR = FLOAT * LANES

_float, _byte, _int32, _int64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
floats, _ints = ir.VectorType(_float, LANES), ir.VectorType(_int32, LANES)
_halves = ir.VectorType(ir.IntType(16), LANES)
_Emit = Callable[..., Any]


class Lanes(types.Type):
    """LANES float32 values in one register."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


lanes = Lanes()
address = types.int64


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, floats)


def instruction(result: Any, *operands: Any) -> Callable[[_Emit], Any]:
    """Makes a numba function of one that emits LLVM code: emit(builder, *values) -> value."""
    signature = result(*operands)

    def wrap(emit: _Emit) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: list[ir.Value]) -> Any:
            value = emit(builder, *values)
            return context.get_dummy_value() if result is types.void else value

        def definition(_typing: Any, *_operands: Any) -> Any:
            return signature, codegen

        definition.__name__, definition.__doc__ = emit.__name__, emit.__doc__
        names = ["typing_context", *list(inspect.signature(emit).parameters)[1:]]  # numba counts the operands
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        definition.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return intrinsic(definition)

    return wrap


def pointer(builder: ir.IRBuilder, where: ir.Value, to: ir.Type) -> ir.Value:
    return builder.inttoptr(where, to.as_pointer())


def _all_ints(number: int) -> ir.Constant:
    return ir.Constant(_ints, [number] * LANES)


def broadcast(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    undefined = ir.Constant(floats, ir.Undefined)
    first = builder.insert_element(undefined, value, _int32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_ints, [0] * LANES))


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    kind = ir.FunctionType(floats, [floats] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32"), [a, b, c])


@instruction(lanes, address)
def load(builder, where):
    return builder.load(pointer(builder, where, floats), align=FLOAT)


@instruction(types.void, address, lanes)
def store(builder, where, value):
    builder.store(value, pointer(builder, where, floats), align=FLOAT)


@instruction(lanes, address)
def load_bf16(builder, where):
    """A bfloat16 is the upper half of a float."""
    halves = builder.load(pointer(builder, where, _halves), align=HALF)
    return builder.bitcast(builder.shl(builder.zext(halves, _ints), _all_ints(16)), floats)


@instruction(types.void, address, lanes)
def store_bf16(builder, where, value):
    """Rounds to the nearest, of two to the even one; NaN stays NaN."""
    bits = builder.bitcast(value, _ints)
    odd = builder.and_(builder.lshr(bits, _all_ints(16)), _all_ints(1))
    rounded = builder.add(bits, builder.add(odd, _all_ints(0x7FFF)))
    kept = builder.select(builder.fcmp_unordered("uno", value, value), _all_ints(0x7FC00000), rounded)
    halves = builder.trunc(builder.lshr(kept, _all_ints(16)), _halves)
    builder.store(halves, pointer(builder, where, _halves), align=HALF)


@instruction(types.void, address)
def prefetch(builder, where):
    """Has the cache line at ``where`` brought near; any address will do."""
    kind = ir.FunctionType(ir.VoidType(), [_byte.as_pointer(), _int32, _int32, _int32])
    bring = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(bring, [builder.inttoptr(where, _byte.as_pointer()), _int32(0), _int32(3), _int32(1)])


@instruction(lanes, lanes)
def reciprocal(builder, value):
    """1 / value to the last bit or so, for normal numbers whose reciprocal is normal too."""
    one = ir.Constant(floats, [1.0] * LANES)
    if LANES != 16:
        return builder.fdiv(one, value)
    mask = ir.IntType(16)
    kind = ir.FunctionType(floats, [floats, floats, mask])
    estimate = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rcp14.ps.512")
    guess = builder.call(estimate, [value, floats(ir.Undefined), mask(0xFFFF)])
    return multiply_add(builder, guess, multiply_add(builder, builder.fneg(value), guess, one), guess)


@instruction(lanes, types.float32)
def splat(builder, value):
    """A number in every lane."""
    return broadcast(builder, value)


@instruction(lanes, lanes, lanes, lanes)
def fma(builder, a, b, c):
    """a b + c"""
    return multiply_add(builder, a, b, c)


# These two let NaN through: a diverging run has to show itself.
@instruction(lanes, lanes, lanes)
def at_least(builder, value, low):
    return builder.select(builder.fcmp_ordered("<", value, low), low, value)


@instruction(lanes, lanes, lanes)
def at_most(builder, value, high):
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


@instruction(lanes, lanes, lanes, lanes)
def where_negative(builder, sign, yes, no):
    """``yes`` in the lanes where ``sign`` < 0, ``no`` elsewhere."""
    return builder.select(builder.fcmp_ordered("<", sign, ir.Constant(floats, [0.0] * LANES)), yes, no)


@instruction(lanes, lanes, lanes)
def raise_exponent(builder, value, shifted):
    """value 2^n, for shifted = n + 1.5 2^23: a float whose low bits are the integer n."""
    n = builder.shl(builder.bitcast(shifted, _ints), ir.Constant(_ints, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(value, _ints), n), floats)


@instruction(types.int64, address)
def count(builder, where):
    """Adds one to a counter that threads share; what was done before is visible to who sees the sum."""
    return builder.atomic_rmw("add", pointer(builder, where, _int64), _int64(1), "acq_rel")


@instruction(types.int64, address)
def counted(builder, where):
    """The value of such a counter."""
    return builder.load_atomic(pointer(builder, where, _int64), "acquire", 8)


@instruction(types.boolean, address, types.int64)
def claim(builder, where, ticket):
    """Moves such a counter from ``ticket`` to the next number, unless another thread was faster."""
    exchange = builder.cmpxchg(
        pointer(builder, where, _int64), ticket, builder.add(ticket, _int64(1)), "acq_rel", "monotonic"
    )
    return builder.extract_value(exchange, 1)


def _arithmetic(python_operator: Any, opcode: str) -> None:
    @instruction(lanes, lanes, lanes)
    def apply(builder, a, b):
        return getattr(builder, opcode)(a, b)

    @overload(python_operator)
    def typed(a, b):
        if isinstance(a, Lanes) and isinstance(b, Lanes):
            return lambda a, b: apply(a, b)
        return None


for _operator, _opcode in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operator, _opcode)
