"""How far rotary embeddings turn, in integers that are the same on every machine.

`x ** y` is the C library's pow, whose last bit differs between machines; decimal's arithmetic is
defined exactly, so a rotation is computed once in 50 digits and rounded to a multiple of 2^-64
of a turn (docs/arithmetic.md, "Rope").
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

TWO_PI = Decimal("6.28318530717958647692528676655900576839433879875021")


def rope_turns(
    theta: float, dims: int, factor: float = 1.0, factors: tuple[float, ...] = ()
) -> tuple[int, ...]:
    """Turns a position of each pair, times 2^64: theta ** (-2 i / dims) / 2 pi for i < dims / 2,
    divided by `factor` and, unless there are none, by factors[i].

    Wraps at a whole turn, which a theta below one may exceed.
    """
    exact = Context(prec=50, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999)
    log_theta = exact.ln(Decimal(theta))
    turns = []
    for i in range(dims // 2):
        exponent = exact.divide(exact.multiply(log_theta, Decimal(-2 * i)), Decimal(dims))
        turn = exact.divide(exact.exp(exponent), TWO_PI)
        slower = exact.multiply(Decimal(factor), Decimal(factors[i] if factors else 1))
        scaled = exact.divide(exact.multiply(turn, Decimal(1 << 64)), slower)
        turns.append(int(exact.to_integral_value(scaled)) % (1 << 64))
    return tuple(turns)
