"""Formulas the kernels share, accurate where the plain ones cancel.

Device logarithms and exponentials have absolute errors near 2^-22, so log1p and its relatives
take a series near zero. Every tensor here is float32.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def exponential(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def logarithm(x):
    """log of what rounding may have made zero; NaN stays NaN, which tl.maximum would drop."""
    return tl.log(tl.where(x < 1e-38, 1e-38, x))


@triton.jit
def not_negative(x):
    """Rounding below zero becomes zero; NaN stays NaN."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def log1p_minus(u):
    """log1p(u) - u for u > -1, uncancelled: log1p(u) = 2 atanh(w) with w = u / (2 + u)."""
    w = u / (2.0 + u)
    w2 = w * w
    tail = 1.0 / 3 + w2 * (1.0 / 5 + w2 * (1.0 / 7 + w2 * (1.0 / 9 + w2 * (1.0 / 11))))
    near = 2.0 * w * w2 * tail - u * w
    return tl.where(tl.abs(w) < 0.2, near, logarithm(1.0 + u) - u)


@triton.jit
def log1p(u):
    """log(1 + u) for u > -1; relative error below 1e-6 however small u is."""
    return tl.where(tl.abs(u) < 0.4, u + log1p_minus(u), logarithm(1.0 + u))


@triton.jit
def expm1_plus(d):
    """exp(-d) - 1 + d for |d| < 0.5, by its series: never negative, exact at 0."""
    tail = 1.0 / 24 - d * (1.0 / 120 - d * (1.0 / 720 - d * (1.0 / 5040 - d * (1.0 / 40320))))
    return d * d * (0.5 - d * (1.0 / 6 - d * tail))


@triton.jit
def capped(raw, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """softcap · tanh(raw / softcap) · scale; tanh by exp2, saturating without overflow."""
    if HAS_SOFTCAP:
        decay = exponential(-2.0 * tl.abs(raw) / softcap)
        size = softcap * (1.0 - decay) / (1.0 + decay)
        raw = tl.where(raw < 0, -size, size)
    return raw * scale
