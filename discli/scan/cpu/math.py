"""exp, sigmoid and softplus of `Lanes`, in polynomials: numba's wheel comes without a vector libm."""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu.compiler import jit
from discli.scan.cpu.lanes import at_least, at_most, fma, raise_exponent, reciprocal, splat, where_negative

# 1.5 2^23: adding it rounds a float to an integer and leaves that integer in the low bits.
_ROUND = 12582912.0
_LOG2_E = 1.4426950216293335
_LOG2_E_REST = 1.925963033500011e-08  # log2(e) is the sum of the two


@jit
def _power_of_two(whole, fraction):
    """2^(n + fraction) for |fraction| <= 1/2, where whole = n + 1.5 2^23.

    Minimax polynomial, relative error 9.1e-8 before rounding. It is exactly 1 at 0: a decay is
    raised to the power of the sequence length, and a bias would be too.
    """
    p = fma(splat(0.001326472731307149), fraction, splat(0.009671512991189957))
    p = fma(p, fraction, splat(0.05550733581185341))
    p = fma(p, fraction, splat(0.24022242426872253))
    p = fma(p, fraction, splat(0.6931470036506653))
    p = fma(p, fraction, splat(1.0))
    return raise_exponent(p, whole)


@jit
def exp(x):
    """e^x, relative error below 3e-7, for |x| <= 87; beyond that e^-88 (or 0) and e^88."""
    x = at_most(at_least(x, splat(-88.0)), splat(88.0))
    whole = fma(x, splat(_LOG2_E), splat(_ROUND))
    n = whole - splat(_ROUND)
    fraction = fma(x, splat(_LOG2_E_REST), fma(x, splat(_LOG2_E), splat(0.0) - n))
    return _power_of_two(whole, fraction)


@jit
def sigmoid(x):
    return reciprocal(splat(1.0) + exp(splat(0.0) - at_least(x, splat(-87.0))))


@jit
def softplus_and_slope(x):
    """log(1 + e^x) with a small relative error at both ends, and its derivative sigmoid(x)."""
    u = exp(where_negative(x, x, splat(0.0) - x))
    # log(1 + u) / u on [0, 1]: minimax, relative error 5.1e-9 before rounding.
    p = fma(splat(-0.003318473929539323), u, splat(0.020204592496156693))
    p = fma(p, u, splat(-0.05766445770859718))
    p = fma(p, u, splat(0.10680557042360306))
    p = fma(p, u, splat(-0.15355397760868073))
    p = fma(p, u, splat(0.19695401191711426))
    p = fma(p, u, splat(-0.24958588182926178))
    p = fma(p, u, splat(0.33330512046813965))
    p = fma(p, u, splat(-0.4999993145465851))
    p = fma(p, u, splat(1.0))
    slope = where_negative(x, u, splat(1.0)) * reciprocal(splat(1.0) + u)
    return fma(p, u, at_least(x, splat(0.0))), slope
