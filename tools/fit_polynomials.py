"""Fits the polynomials of kernels_ref/float_ops.h: `python -m tools.fit_polynomials`.

    exp(r) = 1 + r + r^2 P(r)      |r| <= ln(2)/2     P of degree 4
    sin(x) = x + x^3 S(x^2)        |x| <= pi/4        S of degree 2
    cos(x) = 1 + x^2 C(x^2)        |x| <= pi/4        C of degree 3

Each is a weighted least-squares fit whose weights are raised where the error is large (Lawson,
"Contributions to the theory of linear least maximum approximation", 1961), which tends to the
minimax polynomial. Prints the coefficients as float32 hexadecimal, lowest degree first, and the
largest error that is left after rounding them, evaluated in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def fit(target: Array, basis: Array, scale: Array, rounds: int = 400) -> Array:
    """Coefficients c that minimise max|(basis @ c - target) * scale| over the sample points."""
    weights = np.full(len(target), 1.0 / len(target))
    coefficients = np.zeros(basis.shape[1])
    for _ in range(rounds):
        root = np.sqrt(weights) * scale
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        weights *= np.abs((basis @ coefficients - target) * scale)
        weights /= weights.sum()
    return coefficients


Split = Callable[[Array], tuple[Array, Array, Array, Array]]


def report(name: str, limit: float, degree: int, split: Split) -> None:
    """Fits and prints one function; `split` gives its truth, its known part, the factor of the
    polynomial and the polynomial's variable at the sample points."""
    x = limit * np.cos(np.linspace(0, np.pi, 4001))
    x = x[np.abs(x) > 1e-3 * limit]
    truth, known, factor, variable = split(x)
    basis = factor[:, None] * variable[:, None] ** np.arange(degree + 1)
    scale = 1 / np.abs(truth)
    coefficients = fit(truth - known, basis, scale).astype(np.float32)
    error = np.abs(known + basis @ coefficients.astype(np.float64) - truth) * scale
    print(f"{name}: {', '.join(float(c).hex() + 'f' for c in coefficients)}")
    print(f"  largest relative error {error.max():.2e}")


def main() -> None:
    report("exp", np.log(2) / 2, 4, lambda x: (np.exp(x), 1 + x, x * x, x))
    report("sin", np.pi / 4, 2, lambda x: (np.sin(x), x, x**3, x * x))
    report("cos", np.pi / 4, 3, lambda x: (np.cos(x), np.ones_like(x), x * x, x * x))


if __name__ == "__main__":
    main()
