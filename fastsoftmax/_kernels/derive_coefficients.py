"""Derive every constant of the exp core and write ``coefficients.h``.

    python derive_coefficients.py            # rewrites coefficients.h beside this file
    python derive_coefficients.py --check    # exit status 1 when the header is not what this gives

The core computes ``w = 2^(k // n) * T[k % n] * (1 + q(r))`` with ``x = k * ln2/n + r``, n = 4 in
float32 and 8 in float64. A softmax needs only ratios of weights, so that a constant factor common
to all weights is free. Two choices use that, and one constant undoes it:

* **The table.** Its entries are ``C * 2^(j/n)``, rounded. The free factor ``C`` is chosen so that
  all n entries lie next to a representable number (S. Gal's accurate tables, 1986/1991, with the
  scale as the freedom in place of the abscissae). The error of the table falls from half an ulp to
  a few hundredths.
* **The polynomial.** ``q(r) = c1 r + ... + cd r^d`` (float64: c1 = 1, whose multiplication is then
  saved) minimises the relative error of ``1 + q`` up to one constant factor: Remez exchange in
  multiple precision. The coefficients are then rounded all at once, or one at a time from the
  lowest with the rest fitted again, whichever is better.
* **The effective constant.** The logarithmic functions need the factor that was free above. It is
  written as ``..._SCALE``, with its reciprocal in two parts.

Needs mpmath and NumPy; takes some seconds.
"""

import argparse
import sys
from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.prec = 200
LN2 = mp.log(2)
# Rounding of the reduction lets |r| exceed half a step by a little: |x * 8/ln2| <= 4096 * 8/ln2
# carries a relative error of 2^-24 (float32), i.e. 0.003 steps, and the sum one half.
HALF_STEP = mp.mpf("0.5") + mp.mpf("0.003")
PROMISING = 0.12  # ulp; candidates with all entries this close are looked at exactly
HEADER = Path(__file__).with_name("coefficients.h")


def accurate_scale(bits, steps, candidates):
    """Return the integer m of C = m / 2^(bits-1) whose products m 2^(j/steps) are nearly integers.

    Distances are in units of each entry's spacing, which is 2 for an entry above 2.
    """
    start = 1 << (bits - 1)
    best = (mp.inf, 0)
    for low in range(0, candidates, 1 << 22):
        alive = np.arange(min(1 << 22, candidates - low))
        for j in range(1, steps):
            # (start + low + i) * 2^(j/steps), less an even integer and i, from an exact first term
            # and a short multiple: float64 holds that to far more places than the filter looks at.
            step = mp.mpf(2) ** (mp.mpf(j) / steps)
            first = (start + low) * step
            position = float(mp.fmod(first, 2)) + alive * float(step - 1)
            above = (start + low + alive) * float(step) >= 2.0 * start
            # i itself matters only where integers are not all representable.
            position = np.where(above, (position + alive) / 2, position)
            alive = alive[np.abs(position - np.rint(position)) < PROMISING]
            if alive.size == 0:
                break
        for i in alive:
            worst = table_error(start + low + int(i), bits, steps)[0]
            if worst < best[0]:
                best = (worst, start + low + int(i))
    return best[1]


def table_error(mantissa, bits, steps):
    """Return half the spread of the entries' relative errors, in 2^(1-bits), and the entries."""
    errors, entries = [], []
    for j in range(steps):
        exact = mp.mpf(mantissa) / (1 << (bits - 1)) * mp.mpf(2) ** (mp.mpf(j) / steps)
        entry = round_to(exact, bits)
        entries.append(entry)
        errors.append((entry / exact - 1) * mp.mpf(2) ** (bits - 1))
    return (max(errors) - min(errors)) / 2, entries


def round_to(value, bits):
    """Round to a binary format of ``bits`` significant bits, ties to even."""
    value = mp.mpf(value)
    if value == 0:
        return value
    with mp.workprec(bits):
        return +value


def remez(degree, bound, fixed):
    """Fit e^r ~ (1 + fixed terms + sum c_i r^i) * (1 + a), minimax, on |r| <= bound.

    ``fixed`` maps powers to coefficients that are already rounded. Returns ({power: c}, a, error).
    """
    free = [p for p in range(1, degree + 1) if p not in fixed]
    size = len(free) + 2
    points = [bound * mp.cos(mp.pi * (size - 1 - i) / (size - 1)) for i in range(size)]

    def known(r):
        return 1 + sum(c * r**p for p, c in fixed.items())

    for _ in range(30):
        rows, right = [], []
        for i, r in enumerate(points):
            rows.append([mp.exp(-r) * r**p for p in free] + [-mp.mpf(1), mp.mpf((-1) ** i)])
            right.append(1 - known(r) * mp.exp(-r))
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix(right))
        coefficients = {p: solution[i] for i, p in enumerate(free)}
        offset = solution[len(free)]

        def error(r, coefficients=coefficients, offset=offset):
            value = known(r) + sum(c * r**p for p, c in coefficients.items())
            return value * mp.exp(-r) - 1 - offset

        grid = [bound * mp.mpf(i) / 400 for i in range(-400, 401)]
        values = [error(r) for r in grid]
        extrema = []
        for i, value in enumerate(values):
            if extrema and (values[extrema[-1]] > 0) == (value > 0):
                if abs(value) > abs(values[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        while len(extrema) > size:
            drop = 0 if abs(values[extrema[0]]) < abs(values[extrema[-1]]) else -1
            extrema.pop(drop)
        worst = max(abs(v) for v in values)
        moved = [grid[i] for i in extrema]
        if len(moved) < size or moved == points:
            break
        points = moved
    return coefficients, offset, worst


def quality(coefficients, bound):
    """Return a, the constant factor, and the error of a polynomial as ``remez`` has them."""
    grid = [bound * mp.mpf(i) / 1000 for i in range(-1000, 1001)]
    errors = [(1 + sum(c * r**p for p, c in coefficients.items())) * mp.exp(-r) - 1 for r in grid]
    return (max(errors) + min(errors)) / 2, (max(errors) - min(errors)) / 2


def polynomial(degree, bound, bits, fixed):
    """Return rounded coefficients after ``fixed``, their a and error.

    Rounded all at once, or each after the lower ones and the rest fitted again: the better of both
    (the exchange need not converge once the linear term is given).
    """
    fitted, _, _ = remez(degree, bound, fixed)
    at_once = fixed | {power: round_to(c, bits) for power, c in fitted.items()}
    refitted = dict(fixed)
    for power in range(len(fixed) + 1, degree + 1):
        fitted, _, _ = remez(degree, bound, refitted)
        refitted[power] = round_to(fitted[power], bits)
    best = min(at_once, refitted, key=lambda each: quality(each, bound)[1])
    return best, *quality(best, bound)


def float_bits(value, bits):
    """Return the representation of a number as an integer."""
    dtype, integer = (np.float32, np.uint32) if bits == 24 else (np.float64, np.uint64)
    return int(np.array(float(value), dtype=dtype).view(integer))


def hexadecimal(value, bits):
    """Return a number as a literal of C."""
    text = float(value).hex()
    return text + "f" if bits == 24 else text


def section(name, bits, steps, degree, fixed, candidates):
    """Return the lines of one format's constants; ``fixed``: coefficients that are given."""
    mantissa = accurate_scale(bits, steps, candidates)
    spread, entries = table_error(mantissa, bits, steps)
    coefficients, offset, error = polynomial(degree, LN2 / steps * HALF_STEP, bits, fixed)
    ulp = mp.mpf(2) ** (bits - 1)
    step_hi = round_to(LN2 / steps, bits)
    step_lo = round_to(LN2 / steps - step_hi, bits)
    # Entries' mean relative error and the polynomial's constant belong to the effective factor C.
    factor = mp.mpf(mantissa) / ulp
    relative = [e / (factor * mp.mpf(2) ** (mp.mpf(j) / steps)) for j, e in enumerate(entries)]
    centre = (max(relative) + min(relative)) / 2
    scale = factor * centre * (1 + offset)
    inverse = 1 / scale
    inverse_lo = inverse - round_to(inverse, 53)

    def define(suffix, value, bits=bits, comment=""):
        literal = hexadecimal(round_to(value, bits), bits)
        return f"#define {name}_{suffix} {literal}" + (comment and f" /* {comment} */")

    return [
        f"/* {name}: table within {mp.nstr(spread, 3)} ulp of C * 2^(j/{steps}), polynomial within",
        f" * {mp.nstr(error * ulp, 3)} ulp (of 1.0), before the rounding of its evaluation. */",
        f"#define {name}_STEPS {steps} /* a binade */",
        define("STEPS_PER_UNIT", steps / LN2, comment=f"{steps} / ln 2"),
        define("LOG2E", 1 / LN2),
        define("STEP_HI", step_hi, comment=f"ln 2 / {steps}"),
        define("STEP_LO", step_lo),
        *[define(f"C{power}", value) for power, value in coefficients.items() if value != 1],
        f"/* Bits of C * 2^(j/{steps}), less j in the bits that adding the index restores. */",
        *table(name, bits, entries),
        define("SCALE", scale, 53, "C, effective"),
        define("SCALE_INVERSE", inverse, 53),
        define("SCALE_INVERSE_LO", inverse_lo, 53),
    ]


def table(name, bits, entries):
    """Return the lines of a macro with the entries' bits."""
    width, per_line = (32, 4) if bits == 24 else (64, 2)
    shift = bits - len(entries).bit_length()  # the index occupies the bits below the exponent
    words = [(float_bits(e, bits) - (j << shift)) % (1 << width) for j, e in enumerate(entries)]
    literals = [f"0x{word:0{width // 4}x}u" for word in words]
    rows = [", ".join(literals[i : i + per_line]) for i in range(0, len(entries), per_line)]
    return [
        f"#define {name}_TABLE".ljust(53) + "\\",
        "    {".ljust(58) + "\\",
        ", \\\n".join(f"        {row}" for row in rows) + " \\",
        "    }",
    ]


ORIGIN = (
    "Generated by derive_coefficients.py, which says what each constant is and why. Do not edit."
)
LOGARITHM = (
    "The natural logarithm of 2 in two doubles; the first ends in 11 zero bits, so n * hi is exact."
)


def header():
    """Return the text of coefficients.h."""
    lines = [
        f"/* {ORIGIN} */",
        "/* clang-format off */",
        "#ifndef FSM_COEFFICIENTS_H",
        "#define FSM_COEFFICIENTS_H",
        "",
        *section("F32", 24, 4, 4, {}, 1 << 23),
        "",
        *section("F64", 53, 8, 7, {1: mp.mpf(1)}, 1 << 26),
        "",
        f"/* {LOGARITHM} */",
    ]
    high = mp.floor(LN2 * mp.mpf(2) ** 42) / mp.mpf(2) ** 42
    lines += [
        f"#define LN2_HI {float(high).hex()}",
        f"#define LN2_LO {float(LN2 - high).hex()}",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def main():
    """Write the header, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    text = header()
    if arguments.check:
        if HEADER.read_text() != text:
            sys.exit("coefficients.h is not what derive_coefficients.py gives")
        return
    HEADER.write_text(text)


if __name__ == "__main__":
    main()
