"""The NumPy implementation: the fallback, and the readable specification of every function.

Design
------
(a) A row is shifted by its maximum, ``d = x - max``, as everywhere; but the rounding error ``e`` of
    that difference is kept, since exp would turn it into hundreds of ulp: exp(d + e) = w + w e.
(b) float16, bfloat16 and float32 are computed in float64 and rounded once, at the end. The error of
    a difference is then too small to matter and is not computed.
(c) The weights are summed without the maximal one, whose weight is exactly 1. ``log1p`` of that
    rest keeps the relative accuracy of answers near 0.
(d) The sum is taken without rounding: each weight is cut at a bit common to its row into a head, of
    which any number add exactly, and a tail, whose sum is too small for its rounding to matter
    (Rump, Ogita and Oishi, "Accurate floating-point summation", 2008).
(e) Rows are computed a block at a time, and a row longer than a block tile by tile, so that the
    float64 temporaries stay small and in cache. A tiled row computes its weights twice. All of it
    is done in the calling thread: of a block's operations most are too short for threads to gain
    from taking turns at the GIL.
(f) A masked element is -inf on the way in, which gives it no weight, and is overwritten on the way
    out. A row without an answer (a kept NaN or +inf, or nothing above -inf) is shifted by NaN,
    which spreads by itself.
(g) Rows as short as a class dimension often is are NumPy's slowest: numpy.sum and numpy.max take 3
    to 40 ns an element there. So rows are added up by einsum, whose order of additions does not
    matter after (d), and the maximum of short rows is taken column by column.
(h) What underflows on the way would be an error of many ULP where the result is small too: of the
    rest in (c), of the products that softmax_backward adds up, of exp(y) where sum(g) is large.
    Rows where that happens are done again, 2^LIFT as large (float64 only; in float32 and narrower
    nothing underflows in float64).

Bounds
------
float32 and narrower: 1 ULP. The errors of float64 are below 2^-40 of any term; what is left is the
rounding at the end, 0.5 ULP (a little more for bfloat16, which is rounded by way of float32).

float64: 4 ULP, where exp is right to 0.51 ULP, log1p to 0.85 and expm1 to 0.8, as glibc's are (the
largest errors measured: 0.508, 0.84, 0.78). A rounding is up to 0.5 ULP of its own result, which is
up to one unit u = 2^-53 of its value; k u are from k/2 to k ULP of a result, by its mantissa.
tests/test_accuracy.py has a row that comes near each of the largest errors that were found.

- softmax: weight 1.02 u, sum of the weights 1.02 u (the 1 of the maximum is exact), quotient and
  correction 0.5 ULP each: 3.04. Found: 2.6.
- log_softmax: rest 1.02 u, log1p 0.84 ULP, and 0.5 each for adding the low part to that, for
  log - e and for d - (log - e): 3.4. Found: 2.4.
- logsumexp: the logarithm L is kept as high + low. Where the maximum is near -L/2, an ULP of the
  result is half of one of L. For L just below 0.25, where log1p errs by 0.81 ULP, that makes 1.8
  for the rest, 1.62 for log1p, and 0.5 for the result: 3.92; less for any other L. Found: 3.6.
- softmax_backward: product, sum, difference, product. The first two count as much as the mantissa
  of y, 1 ULP each at most, then the third's difference as well: 3.5. Found: 3.41.
- log_softmax_backward: exp 0.51 ULP, sum, product and difference: 2.54. Done again as in (h), exp's
  factor e^LOG_LIFT_LOW is rounded too: 3.5. Found: 2.5 and 3.33.
- Cross-entropy of indices: L as high + low, one rounding: 2.4. With smoothing the sum of the
  logarithms has 1 u each for d, s / n and their product: 3.5. Found: 2.3 and 2.7.
- Cross-entropy of probabilities: mass L - sum(t d), two terms of one sign. The first: 1.85 ULP of L
  (2.5 with the mantissa of the mass), product and last sum 0.5 each: 3.5. The second: 1 u for each
  product, last sum 0.5; with smoothing 2 u more for each target: 3.5. Found: 2.3 and 3.3.
- Its gradient: softmax, product with the mass, difference: 4.04, were each of the errors at its
  largest in one element. For indices without the product: 3.54. Found: 3.7 and 2.5.

On x86-64 with AVX-512, NumPy has its own exp and log1p (SVML's), below 1 ULP by their authors. By
an exp that errs by E ULP softmax errs by up to 4 E + 1: there the bounds are not derived.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from fastsoftmax import _rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    from numpy.typing import NDArray

    from fastsoftmax._rules import Plan

    Array: TypeAlias = NDArray[Any]
    Index: TypeAlias = tuple[slice, ...]
    _Pair: TypeAlias = tuple[Any, Any]

_Function = TypeVar("_Function", bound="Callable[..., Any]")

BLOCK = 1 << 14  # elements: the dozen float64 temporaries of a block then fit a 2 MiB L2
SHORT = 32  # elements: rows that are compared column by column

# A float64 sum of less than TINY may have lost terms below 2^-1074, and is done again, 2^LIFT as
# large; so is e^x for x below LOG_TINY, as e^(x + LOG_LIFT), where LOG_LIFT = LIFT log(2) - the low
# part of that.
TINY = 2.0**-960
LOG_TINY = -708.0
LIFT = 544
LOG_LIFT = float.fromhex("0x1.791272ee9dd8ep+8")
LOG_LIFT_LOW = float.fromhex("0x1.468681eed1843p-47")


class _Call(NamedTuple):
    """The operands of a plan, the reduced axes last; of length 1 for one number a row."""

    x: Array
    y: Array | None
    where: Array | None
    out: Array
    grad: Array | None
    k: int
    """How many axes are reduced."""
    temperature: float
    smoothing: float


class NumpyBackend:
    """Every function of the package by NumPy; `fastsoftmax._backend.Backend` is the protocol."""

    name = "numpy"

    def function(self, general: _Function) -> _Function:
        """Return the general function: there is no shortcut."""
        return general

    def run(self, plan: Plan) -> Any:
        """Compute a plan."""
        if plan.axis == ():
            return self._run_elements(plan)
        single = plan.function in ("logsumexp", "softmax_cross_entropy")
        x, y = _rules.cast(plan.x, plan.result), plan.y
        if y is not None and plan.function.endswith("_backward"):
            y = _rules.cast(y, plan.result)
        out, grad = plan.out, None
        if out is None:
            out = np.empty(plan.shape, plan.result) if single else np.empty_like(x)
        if plan.return_grad:
            grad = np.empty_like(x)
        kept = [d for d in range(x.ndim) if d not in plan.axes]

        def rows(array: Array) -> Array:
            """Return a view with the reduced axes last."""
            return array if array.ndim < x.ndim else array.transpose(*kept, *plan.axes)

        k = len(plan.axes)
        call = _Call(
            x=rows(x),
            y=None if y is None else rows(y),
            where=None if plan.where is None else rows(np.broadcast_to(plan.where, x.shape)),
            out=out.reshape([x.shape[d] for d in kept] + [1] * k) if single else rows(out),
            grad=None if grad is None else rows(grad),
            k=k,
            temperature=plan.temperature,
            smoothing=plan.label_smoothing,
        )
        assert np.may_share_memory(call.out, out)
        getattr(self, plan.function)(call)
        result = out if plan.out is not None else out[()]
        return result if grad is None else (result, grad)

    def _run_elements(self, plan: Plan) -> Any:
        """Compute a plan that reduces no axis: every element is a row."""
        where = None if plan.where is None else np.broadcast_to(plan.where, plan.x.shape)
        columns = [None if a is None else a.reshape(-1, 1) for a in (plan.x, plan.y, where)]
        x, y, where = columns
        assert x is not None
        result = self.run(plan._replace(x=x, y=y, where=where, axis=1, out=None, keepdims=False))
        result = result.reshape(plan.x.shape)
        if plan.out is None:
            return result[()]
        plan.out[...] = result
        return plan.out

    def softmax(self, c: _Call) -> None:
        """Write exp(x / T) / sum(exp(x / T))."""

        def block(x: Array, out: Array, where: Array | None) -> None:
            rows = _Rows(x, c.k, where, c.temperature)
            for tile, part in rows.parts():
                _store(out, tile, part.softmax(rows.total), where, 0.0)

        _for_blocks(block, c, c.x, c.out, c.where)

    def log_softmax(self, c: _Call) -> None:
        """Write x / T - log(sum(exp(x / T)))."""

        def block(x: Array, out: Array, where: Array | None) -> None:
            rows = _Rows(x, c.k, where, c.temperature)
            log, _ = rows.log_sum()
            for tile, part in rows.parts():
                _store(out, tile, part.log_softmax(log), where, -np.inf)

        _for_blocks(block, c, c.x, c.out, c.where)

    def logsumexp(self, c: _Call) -> None:
        """Write log(sum(exp(x)))."""

        def block(x: Array, out: Array, where: Array | None) -> None:
            rows = _Rows(x, c.k, where, 1.0)
            log, low = rows.log_sum()
            answer, error = _two_sum(rows.largest, log)
            answer += error + low
            # Of a row without an answer the largest element says which: -inf, inf or NaN.
            _store(out, (), np.where(np.isnan(rows.shift), rows.largest, answer))

        _for_blocks(block, c, c.x, c.out, c.where)

    def softmax_backward(self, c: _Call) -> None:
        """Write y (g - sum(g y))."""
        exact, is_float64 = not _is_narrow(c.x), c.x.dtype == np.float64

        def block(g: Array, y: Array, out: Array) -> None:
            tiles = _tiles(g, c.k)
            products = (_load(g, tile, c.k) * _load(y, tile, c.k) for tile in tiles)
            inner = _rounded(_sum_of_tiles(products, exact=exact))
            tiny = np.abs(inner[:, 0]) < TINY
            if is_float64 and np.any(tiny):
                products = (
                    _load(g, tile, c.k)[tiny] * np.ldexp(_load(y, tile, c.k)[tiny], LIFT)
                    for tile in tiles
                )
                lifted = _rounded(_sum_of_tiles(products))
                inner[tiny] = np.where(np.isfinite(lifted), np.ldexp(lifted, -LIFT), inner[tiny])
            for tile in tiles:
                _store(out, tile, _load(y, tile, c.k) * (_load(g, tile, c.k) - inner))

        _for_blocks(block, c, c.x, c.y, c.out)

    def log_softmax_backward(self, c: _Call) -> None:
        """Write g - exp(y) sum(g), over what is not masked."""
        exact, is_float64 = not _is_narrow(c.x), c.x.dtype == np.float64

        def block(g: Array, y: Array, out: Array, where: Array | None) -> None:
            tiles = _tiles(g, c.k)
            loaded = (_load(g, tile, c.k, where, 0.0) for tile in tiles)
            total = _rounded(_sum_of_tiles(loaded, exact=exact))
            is_large = is_float64 and np.any(np.abs(total) > 1)
            for tile in tiles:
                logs = _load(y, tile, c.k, where)
                product = np.exp(logs) * total
                if is_large and np.min(logs) < LOG_TINY:
                    deep = (logs < LOG_TINY) & (logs > 2 * LOG_TINY)
                    factor = np.broadcast_to(total, deep.shape)[deep]
                    product[deep] = np.ldexp(_lifted_exp(logs[deep], 0.0) * factor, -LIFT)
                _store(out, tile, _load(g, tile, c.k, where, 0.0) - product, where, 0.0)

        _for_blocks(block, c, c.x, c.y, c.out, c.where)

    def softmax_cross_entropy(self, c: _Call) -> None:
        """Write -sum(t log_softmax(x)) and its gradient sum(t) softmax(x) - t."""
        assert c.y is not None
        by_index = c.y.dtype.kind in "iu"
        exact = not _is_narrow(c.x)
        n = c.x.shape[-1]
        labels = c.y.astype(np.intp)[..., np.newaxis] if by_index else c.y
        smoothing = _wide(c.x).type(c.smoothing)
        own = 1 - smoothing  # what a class keeps of its share; each class gets `even` besides
        own_low = (1 - own) - smoothing
        even = smoothing / n
        # With own = factor 2^k, 0.5 <= factor < 1, and power = 2^k, a target is factor times
        # (power share + even / factor), whose first product is exact.
        factor, k = np.frexp(own)
        power = np.ldexp(1.0, k)
        if own == 0:
            factor, power = smoothing, 0.0
        even_by_factor = _wide(c.x).type(np.longdouble(smoothing) / n / factor)

        def locate(labels: Array, tile: Index) -> tuple[Array, tuple[Array, Array]]:
            """Return which rows have their label in a tile, and an index of the labels there."""
            labels = labels.reshape(-1, 1)
            first, last = (tile[-1].start, min(tile[-1].stop, n)) if tile else (0, n)
            column = np.minimum(np.maximum(labels, first), last - 1) - first
            return (labels >= first) & (labels < last), (np.arange(len(labels))[:, None], column)

        def of_indices(rows: _Rows, t: Array) -> _Pair:
            """Return the losses of class indices, as high + low."""
            high, low = rows.log_sum()
            for tile, part in rows.parts():
                if own != 0:
                    is_here, at = locate(t, tile)
                    d = np.where(is_here, part.d[at], 0.0)
                    high, error = _two_sum(high, -own * d)
                    low = low + (error - own_low * d)
                    if part.error is not None:
                        low = low - own * np.where(is_here, part.error[at], 0.0)
                if smoothing != 0:
                    sums = _sum(-even * part.d, exact=exact)
                    high, error = _two_sum(high, sums[0])
                    low = low + (error + sums[1])
            return high, low

        def of_probabilities(rows: _Rows, t: Array) -> tuple[_Pair, Array]:
            """Return the losses of probabilities, as high + low, and the sum of the targets."""
            sums, masses = [], []
            for tile, part in rows.parts():
                share = _load(t, tile, 1)
                share = share.astype(np.promote_types(share.dtype, _wide(c.x)), copy=False)
                masses.append(_sum(share, exact=exact))
                if smoothing != 0:
                    share = (share if power == 1 else power * share) + even_by_factor
                terms = share * part.d
                # A class that is not asked for costs nothing, impossible (-inf) or not.
                if not np.all(np.isfinite(terms)):
                    terms[share == 0] = 0.0
                high, low = _sum(terms, exact=exact)
                if part.error is not None:
                    low = low + np.einsum("ij,ij->i", share, part.error)[:, np.newaxis]
                sums.append((high, low))
            asked, asked_low = functools.reduce(_plus, sums)
            mass, mass_low = _two_sum(*functools.reduce(_plus, masses))
            if smoothing != 0:
                product = factor * asked
                error = _finite_or_0(_product_error(asked, factor, product))
                asked, asked_low = product, factor * asked_low + (own_low * asked - error)
                mass, mass_low = _two_sum(mass, mass_low + smoothing * ((1 - mass) - mass_low))
            log, log_low = rows.log_sum()
            high, error = _two_sum(mass * log, -asked)
            return (high, error + (mass_low * log + mass * log_low - asked_low)), mass

        def block(x: Array, t: Array, loss: Array, grad: Array | None) -> None:
            rows = _Rows(x, 1, None, 1.0)
            if by_index:
                losses, mass = of_indices(rows, t), None
            else:
                losses, mass = of_probabilities(rows, t)
            _store(loss, (), np.where(np.isnan(rows.shift), np.nan, _rounded(losses)))
            if grad is None:
                return
            for tile, part in rows.parts():
                gradient = part.softmax(rows.total)
                if mass is not None:
                    gradient = gradient * mass
                    target = _load(t, tile, 1)
                    if smoothing != 0:
                        target = own * target
                        target += even
                    gradient -= target
                else:
                    is_here, at = locate(t, tile)
                    if smoothing == 0:  # 1 - p without its cancellation
                        changed = -part.complement(rows.total, at)
                    else:
                        changed = gradient[at] - (own + even)
                        gradient -= even
                    gradient[at] = np.where(is_here, changed, gradient[at])
                _store(grad, tile, gradient)

        _for_blocks(block, c, c.x, labels, c.out, c.grad)

    def segment_softmax(self, c: _Call) -> None:
        """Write the softmax of each ``x[y[i]:y[i + 1]]``."""
        assert c.y is not None
        data, out, indptr = c.x, c.out, c.y.astype(np.int64)

        def runs() -> Iterator[tuple[int, int]]:
            """As many segments as fit a block; one alone may be longer."""
            first = 0
            while first < len(indptr) - 1:
                last = int(np.searchsorted(indptr, indptr[first] + BLOCK, side="right")) - 1
                last = max(last, first + 1)
                if indptr[last] > indptr[first]:
                    yield first, last
                first = last

        def run(first: int, last: int) -> None:
            start, stop = indptr[first], indptr[last]
            if last == first + 1:
                self.softmax(c._replace(x=data[start:stop], out=out[start:stop]))
                return
            bounds = np.unique(indptr[first : last + 1]) - start  # no empty segments
            segments = _Ragged(bounds)
            x = data[start:stop].astype(_wide(data))
            shift = _shift(segments.largest(x))
            part = _Part(segments, x, shift, 1.0, is_narrow=_is_narrow(data))
            _store(out[start:stop], (), part.softmax(_Total.of(part.sum())))

        _for_each(run, runs())


class _Even:
    """Rows of one length: elements are (rows, n), figures of a row (rows, 1)."""

    def __init__(self, n: int) -> None:
        self.longest = n

    def largest(self, values: Array) -> Array:
        return _largest(values)

    def add(self, values: Array) -> Array:
        return _add(values)

    def spread(self, figures: Array) -> Array:
        return figures


class _Ragged:
    """Rows of any length above 0 one after the other: elements and figures are 1-D."""

    def __init__(self, bounds: Array) -> None:
        self.starts = bounds[:-1]
        self.lengths = np.diff(bounds)
        self.longest = int(np.max(self.lengths))

    def largest(self, values: Array) -> Array:
        return np.maximum.reduceat(values, self.starts)

    def add(self, values: Array) -> Array:
        return np.add.reduceat(values, self.starts)

    def spread(self, figures: Array) -> Array:
        return np.repeat(figures, self.lengths)


class _Sum(NamedTuple):
    """Sum of the weights below the maximum, as high + low, and how often the maximum occurs."""

    high: Array
    low: Array
    peaks: Array

    def plus(self, other: _Sum) -> _Sum:
        high, low = _two_sum(self.high, other.high)
        return _Sum(high, low + (self.low + other.low), self.peaks + other.peaks)


class _Total(NamedTuple):
    """Sum of all weights of a row, as high + low, and the same without one maximal weight."""

    high: Array
    low: Array
    rest: Array
    rest_low: Array

    @classmethod
    def of(cls, below: _Sum) -> _Total:
        rest, rest_low = _two_sum(below.high, below.peaks - 1)
        rest, rest_low = _two_sum(rest, rest_low + below.low)
        high, low = _two_sum(np.ones_like(rest), rest)
        high, low = _two_sum(high, low + rest_low)
        return cls(high, low, rest, rest_low)


class _Part:
    """Elements of whole rows, or a tile of long ones: d = (x - shift) / T, its error, its exp."""

    def __init__(
        self, grid: _Even | _Ragged, x: Array, shift: Array, temperature: float, *, is_narrow: bool
    ) -> None:
        self.grid = grid
        self.d, self.error = _difference(x, grid.spread(shift), temperature, exact=not is_narrow)
        self.w = np.exp(self.d)

    def sum(self) -> _Sum:
        is_peak = (self.d == 0).astype(self.d.dtype)
        below = self.w - is_peak
        cut = self.grid.spread(_cut(self.grid.largest(below), self.grid.longest))
        heads = below + cut
        heads -= cut
        tails = below - heads
        if self.error is not None:
            below *= self.error
            tails += below
        return _Sum(self.grid.add(heads), self.grid.add(tails), self.grid.add(is_peak))

    def softmax(self, total: _Total) -> Array:
        spread = self.grid.spread
        y = self.w / spread(total.high)
        if self.error is None:
            return y
        correction = self.error - spread(total.low / total.high)
        correction *= y
        y += correction
        return y

    def lifted_rest(self, rows: Array) -> Array:
        """Return 2^LIFT times the weights below the maximum, of the rows that are True."""
        d, error = self.d[rows], self.error
        assert error is not None
        return np.where(d == 0, 0.0, _lifted_exp(d, error[rows]))

    def log_softmax(self, log_sum: Array) -> Array:
        if self.error is None:
            return self.d - log_sum
        result = log_sum - self.error
        np.subtract(self.d, result, out=result)
        return result

    def complement(self, total: _Total, at: Any) -> Array:
        """1 - softmax at one element a row, as (rest + (1 - w)) / sum: no term is negative."""
        return (total.rest - np.expm1(self.d[at])) / total.high


class _Rows:
    """A block of rows of one length, whose parts may be gone through more than once."""

    def __init__(self, x: Array, k: int, where: Array | None, temperature: float) -> None:
        self.x, self.k, self.where, self.temperature = x, k, where, temperature
        self.tiles = _tiles(x, k)
        self.only: _Part | None = None
        loaded = [_load(x, tile, k, where) for tile in self.tiles[:1]]
        self.largest = _largest(loaded[0])
        for tile in self.tiles[1:]:
            self.largest = np.maximum(self.largest, _largest(_load(x, tile, k, where)))
        self.shift = _shift(self.largest)
        if len(self.tiles) == 1:
            self.only = self.part(loaded[0])
        self.total = _Total.of(self.sum())

    def part(self, x: Array) -> _Part:
        is_narrow = _is_narrow(self.x)
        return _Part(_Even(x.shape[-1]), x, self.shift, self.temperature, is_narrow=is_narrow)

    def parts(self) -> Iterator[tuple[Index, _Part]]:
        if self.only is not None:
            yield (), self.only
            return
        for tile in self.tiles:
            yield tile, self.part(_load(self.x, tile, self.k, self.where))

    def sum(self) -> _Sum:
        first, *others = (part.sum() for _, part in self.parts())
        for other in others:
            first = first.plus(other)
        return first

    def log_sum(self) -> _Pair:
        """Return the logarithm of the sum of the weights, as high + low."""
        rest = self.total.rest
        log = np.log1p(rest)
        if _is_narrow(self.x):
            return log, np.zeros_like(log)
        log, low = _two_sum(log, self.total.rest_low / (1 + rest))
        tiny = rest < TINY
        if self.x.dtype == np.float64 and np.any(tiny) and math.prod(self.x.shape[-self.k :]) > 1:
            lifted = (part.lifted_rest(tiny[:, 0]) for _, part in self.parts())
            high_and_low = _sum_of_tiles(lifted)
            log[tiny[:, 0]], low[tiny] = np.ldexp(_rounded(high_and_low), -LIFT), 0.0
        return log, low


def _is_narrow(x: Array) -> bool:
    """Whether float64 has digits to spare for x."""
    return x.dtype.itemsize < 8


def _wide(x: Array) -> np.dtype[Any]:
    """Return the dtype in which x is computed."""
    return np.dtype(np.float64) if _is_narrow(x) else x.dtype


def _shift(largest: Array) -> Array:
    return np.where(np.isfinite(largest), largest, np.nan)


def _difference(
    x: Array, shift: Array, temperature: float, *, exact: bool
) -> tuple[Array, Array | None]:
    """Return (x - shift) / T and, where `exact`, the error of that: what to add to it."""
    scale, power = 1.0, 0
    if temperature != 1.0:
        # T = scale 2^power, 0.5 <= scale < 1: what overflows by the power does so by T.
        scale, power = math.frexp(temperature)
        if power > 0:  # before the difference, which might overflow
            x, shift, power = np.ldexp(x, -power), np.ldexp(shift, -power), 0
    d = x - shift
    if not exact:
        return (d if temperature == 1.0 else np.ldexp(d, -power) / scale), None
    back = d - x
    error = d - back
    np.subtract(x, error, out=error)
    back += shift
    error -= back
    if temperature != 1.0:
        d, error = np.ldexp(d, -power), np.ldexp(error, -power)
        quotient = d / scale
        error = (_product_error(quotient, scale, d) + error) / scale
        d = quotient
    # inf - inf: an element that is -inf, or beyond what the dtype can say.
    return d, _finite_or_0(error)


def _product_error(a: Array, b: float, near: Array) -> Array:
    """Return near - a b, which is small and exact (Dekker, 1971)."""
    factor = a.dtype.type(2 ** ((np.finfo(a.dtype).nmant + 2) // 2) + 1)

    def halves(value: Any) -> tuple[Any, Any]:
        scaled = factor * value
        high = scaled - (scaled - value)
        return high, value - high

    a_high, a_low = halves(a)
    b_high, b_low = halves(a.dtype.type(b))
    return ((near - a_high * b_high) - a_high * b_low - a_low * b_high) - a_low * b_low


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b as its rounded value and the error of that (Knuth)."""
    high = a + b
    back = high - a
    return high, (a - (high - back)) + (b - back)


def _finite_or_0(values: Array) -> Array:
    # numpy.all, as numpy.any elsewhere: the methods import Python code, which a finaliser cannot.
    is_finite = np.isfinite(values)
    return values if np.all(is_finite) else np.where(is_finite, values, 0.0)


def _largest(values: Array) -> Array:
    """Return the maximum of each row."""
    if 1 < values.shape[-1] <= SHORT:  # row by row, NumPy takes up to 40 times as long
        return np.max(np.ascontiguousarray(values.T), axis=0)[:, np.newaxis]
    return np.max(values, axis=-1, keepdims=True)


def _plus(a: _Pair, b: _Pair) -> _Pair:
    """Return the sum of two numbers that are each high + low."""
    high, low = _two_sum(a[0], b[0])
    return high, low + (a[1] + b[1])


def _add(values: Array) -> Array:
    """Return the sum of each row; of short rows in a quarter of the time that numpy.sum takes."""
    return np.einsum("ij->i", values)[:, np.newaxis]


def _cut(largest: Array, n: int) -> Array:
    """Return the power of two, for rows of up to n elements, that parts heads from tails: see (d).

    In ``(value + cut) - cut`` what is less than the unit in the last place of `cut` is lost.
    """
    _, exponent = np.frexp(largest)
    exponent = np.minimum(exponent + n.bit_length(), np.finfo(largest.dtype).maxexp - 1)
    return np.ldexp(np.ones((), largest.dtype), exponent)


def _sum(values: Array, *, exact: bool) -> _Pair:
    """Return the sum of each row as high + low, of which only low is rounded: see (d)."""
    if not exact:
        return _add(values), 0.0
    heads = np.abs(values)
    cut = _cut(_largest(heads), values.shape[-1])
    np.add(values, cut, out=heads)
    heads -= cut
    high = _add(heads)
    np.subtract(values, heads, out=heads)
    return high, _add(heads)


def _sum_of_tiles(tiles: Iterable[Array], *, exact: bool = True) -> _Pair:
    """Return the sum of rows that come tile by tile, as high + low."""
    return functools.reduce(_plus, (_sum(values, exact=exact) for values in tiles))


def _rounded(pair: _Pair) -> Array:
    """Return high + low; of an infinite high there is no low."""
    high, low = pair
    return np.where(np.isfinite(high), high + low, high)


def _lifted_exp(x: Array, error: Any) -> Array:
    """Return e^(x + error) 2^LIFT, for x from -1500 to -700: that is no subnormal number."""
    w = np.exp(x + LOG_LIFT)  # an exact sum: LOG_LIFT is a multiple of 2^-43
    return w + w * (error + LOG_LIFT_LOW)


def _at(array: Array, tile: Index) -> Array:
    index: Any = (..., *tile)
    return array[index]


def _load(
    x: Array, tile: Index, k: int, where: Array | None = None, masked: float = -np.inf
) -> Array:
    """Return x as (rows, n) in the dtype that is computed in, `masked` where masked: to be read."""
    x = _at(x, tile)
    values = np.ascontiguousarray(x, dtype=_wide(x))
    if where is not None:
        values = np.where(_at(where, tile), values, _wide(x).type(masked))
    return values.reshape(-1, math.prod(x.shape[-k:]))


def _store(
    out: Array, tile: Index, values: Array, where: Array | None = None, masked: float = 0.0
) -> None:
    """Round values into a tile of out: `masked` where masked, one bit pattern for every NaN."""
    out = _at(out, tile)
    is_nan = np.isnan(values)
    if np.any(is_nan):
        np.copyto(values, np.nan, where=is_nan)
    np.copyto(out, values.reshape(out.shape), casting="unsafe")
    if where is not None:
        np.copyto(out, masked, casting="unsafe", where=~_at(where, tile))


def _pieces(shape: tuple[int, ...], limit: int) -> Iterator[Index]:
    """Cut an array of `shape` into pieces of at most `limit` elements (but at least one)."""
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    step = limit // inner
    if step:
        yield from ((slice(i, i + step),) for i in range(0, shape[0], step))
        return
    for i in range(shape[0]):
        for piece in _pieces(shape[1:], limit):
            yield (slice(i, i + 1), *piece)


def _for_each(call: Callable[..., None], arguments: Iterator[Any]) -> None:
    """Call `call` with each of the tuples of arguments, without warnings."""
    with np.errstate(all="ignore"):
        for taken in arguments:
            call(*taken)


def _for_blocks(call: Callable[..., None], c: _Call, *arrays: Array | None) -> None:
    """Cut arrays of the same leading axes into blocks of whole rows; None stays None."""
    shape = c.x.shape
    lead = len(shape) - c.k
    rows = max(1, BLOCK // math.prod(shape[lead:]))
    pieces = _pieces(shape[:lead], rows)
    blocks = ([None if a is None else a[piece] for a in arrays] for piece in pieces)
    _for_each(call, blocks)


def _tiles(x: Array, k: int) -> list[Index]:
    """Cut long rows into tiles: indices into the last `k` axes, each of them given or none."""
    shape = x.shape[-k:]
    if math.prod(shape) <= BLOCK:
        return [()]
    whole = (slice(None),) * k
    return [(*piece, *whole[len(piece) :]) for piece in _pieces(shape, BLOCK)]
