"""Student's t distribution: the intervals and probabilities of means of a few runs. Student 1908, Welch 1947.

The tail is the regularised incomplete beta function, by its continued fraction (Lentz's method). Intervals over
examples are resampled instead (`metrics.resampling`).
"""

from __future__ import annotations

import math

_TINY = 1e-300
_MOST_TERMS = 500


def tail(t: float, freedom: float) -> float:
    """Returns the probability that |T| is at least |t|.

    Args:
        t: The statistic.
        freedom: Degrees of freedom, above 0; infinite gives the normal distribution.
    """
    if math.isinf(t):
        return 0.0
    if math.isinf(freedom) or freedom > 1e7:
        return math.erfc(abs(t) / math.sqrt(2))
    square = t * t
    if square < freedom:  # the small part of the two is exact in floating point
        return 1 - incomplete_beta(0.5, freedom / 2, square / (freedom + square))
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + square))


def quantile(confidence: float, freedom: float) -> float:
    """Returns the t that |T| stays below with this probability, by halving an interval."""
    low, high = 0.0, 1.0
    while tail(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > 1 - confidence else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b), for x from 0 to 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast; else its mirror image
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Returns the continued fraction of the incomplete beta function."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
