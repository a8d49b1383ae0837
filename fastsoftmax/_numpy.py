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
    which spreads by itself. A loss or gradient that is 0 by its sample weight or ignored label is
    computed like any other, and overwritten.
(g) Rows as short as a class dimension often is are NumPy's slowest: numpy.sum and numpy.max take 3
    to 40 ns an element there. So rows are added up by einsum, whose order of additions does not
    matter after (d), and the maximum of short rows is taken column by column.
(h) What underflows on the way would be an error of many ULP where the result is small too: of the
    rest in (c), of the products that softmax_backward adds up, of exp(y) where sum(g) is large.
    Rows where that happens are done again, 2^LIFT as large (float64 only; in float32 and narrower
    nothing underflows in float64). So are gradients and losses that a sample weight or 1 / T makes
    larger again.
(i) Segments that fit a block together are one array of elements and one of figures, both 1-D, with
    numpy's reduceat and repeat between them; further axes are more such rows, one after the other.
    A segment that has a block to itself goes the way of other rows.
(j) The terms of a logsumexp with weights, b exp(x), are relative to the largest term: it is taken
    out of the sum, and its logarithm is x + log(b), where x is exact and log(b) has two parts. The
    others may have any sign, and differ from it by any power of two in both of b and exp(x).

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
- Times a sample weight or 1 / T: the factor has two parts, and what is multiplied too, so that one
  rounding is new. Those before it are up to k ULP for k u, by the mantissas. Found: 2.9 for losses,
  3.3 for gradients.
- logsumexp with weights: 1.02 u for exp and 1 u for the product with b of each term but the
  largest, which is 2.02 u of (the sum of the terms' sizes) / (the size of their sum), the cost of
  cancellation; then as logsumexp, with 0.26 u for the logarithm of b's mantissa. Found: 0.22 of
  2 u of that quotient and 4 ULP of the larger of the result and the largest x + log(abs(b)).

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
    _Grid: TypeAlias = "_Even | _Ragged"

_Function = TypeVar("_Function", bound="Callable[..., Any]")

BLOCK = 1 << 14  # elements: the dozen float64 temporaries of a block then fit a 2 MiB L2
SHORT = 32  # elements: rows that are compared column by column

# A float64 sum of less than TINY may have lost terms below 2^-1074, and is done again, 2^LIFT as
# large; so is e^x for x below LOG_TINY, as e^(x + LOG_LIFT), where LOG_LIFT = LIFT log(2) - the low
# part of that.
TINY = 2.0**-960
SMALLEST = 2.0**-1074
LOG_TINY = -708.0
LIFT = 544
LOG_LIFT = float.fromhex("0x1.791272ee9dd8ep+8")
LOG_LIFT_LOW = float.fromhex("0x1.468681eed1843p-47")

# log(2) = LOG_2 + LOG_2_LOW, where the product of LOG_2 and an exponent is exact.
LOG_2 = float.fromhex("0x1.62e42fefap-1")
LOG_2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")


class _Call(NamedTuple):
    """The operands of a plan, the reduced axes last; of length 1 for one number a row."""

    x: Array
    y: Array | None
    where: Array | None
    out: Array
    second: Array | None
    """The second result: a gradient, or signs."""
    k: int
    """How many axes are reduced."""
    temperature: float | Array
    smoothing: float
    weight: float | Array | None
    ignored: int | None
    is_cut: bool
    """Whether y is the row pointers that cut the last axis into rows."""

    @property
    def results(self) -> list[Array]:
        return [self.out] if self.second is None else [self.out, self.second]


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
        if y is not None and plan.function == "logsumexp":
            y = np.broadcast_to(y, x.shape)
        out, second = plan.out, plan.grad
        if out is None:
            is_like_x = plan.shape == x.shape and not single
            out = np.empty_like(x) if is_like_x else np.empty(plan.shape, plan.result)
        if plan.return_sign:
            second = np.empty(plan.shape, plan.result)
        elif plan.return_grad and second is None:
            second = np.empty_like(x)
        kept = [d for d in range(x.ndim) if d not in plan.axes]
        lengths = [x.shape[d] for d in kept]
        temperature, weight = plan.temperature, plan.sample_weight
        if isinstance(temperature, np.ndarray):
            one_each = [1 if d in plan.axes else n for d, n in enumerate(x.shape)]
            temperature = np.broadcast_to(temperature, one_each).transpose(*kept, *plan.axes)
        if isinstance(weight, np.ndarray):
            weight = np.broadcast_to(weight, lengths)[..., np.newaxis]

        def rows(array: Array) -> Array:
            """Return a view with the reduced axes last."""
            return array if array.ndim < x.ndim else array.transpose(*kept, *plan.axes)

        def figures(array: Array) -> Array:
            """Return a view of one number a row."""
            return array.reshape(lengths + [1] * len(plan.axes))

        call = _Call(
            x=rows(x),
            y=None if y is None else rows(y),
            where=None if plan.where is None else rows(np.broadcast_to(plan.where, x.shape)),
            out=figures(out) if single else rows(out),
            second=None if second is None else (figures if plan.return_sign else rows)(second),
            k=len(plan.axes),
            temperature=temperature,
            smoothing=plan.label_smoothing,
            weight=weight,
            ignored=plan.ignore_index,
            is_cut=plan.function.startswith("segment"),
        )
        assert np.may_share_memory(call.out, out)
        getattr(self, plan.function.removeprefix("segment_"))(call)
        result = out if plan.out is not None else out[()]
        return result if second is None else (result, second[()])

    def _run_elements(self, plan: Plan) -> Any:
        """Compute a plan that reduces no axis: every element is a row."""

        def column(value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            return np.broadcast_to(value, plan.x.shape).reshape(-1, 1)

        columns = {name: column(getattr(plan, name)) for name in ("x", "y", "where", "temperature")}
        found = self.run(plan._replace(**columns, axis=1, out=None, keepdims=False))
        results = [r.reshape(plan.x.shape)[()] for r in (found if plan.return_sign else [found])]
        if plan.out is not None:
            plan.out[...] = results[0]
            results[0] = plan.out
        return tuple(results) if plan.return_sign else results[0]

    def softmax(self, c: _Call) -> None:
        """Write exp(x / T) / sum(exp(x / T))."""

        def block(rows: _Rows, out: Array) -> None:
            for tile, part in rows.parts():
                _store(out, tile, part.softmax(rows.total), rows.where, 0.0)

        _for_rows(block, c)

    def log_softmax(self, c: _Call) -> None:
        """Write x / T - log(sum(exp(x / T)))."""

        def block(rows: _Rows, out: Array) -> None:
            log, _ = rows.log_sum()
            for tile, part in rows.parts():
                _store(out, tile, part.log_softmax(log), rows.where, -np.inf)

        _for_rows(block, c)

    def logsumexp(self, c: _Call) -> None:
        """Write log(sum(exp(x))) and the sum's sign."""

        def block(rows: _Rows, out: Array, sign: Array | None = None) -> None:
            log, low = rows.log_sum()
            answer, error = _two_sum(rows.largest, log)
            answer += error + low
            # Of a row without an answer the largest element says which: -inf, inf or NaN.
            answer = np.where(np.isnan(rows.shift), rows.largest, answer)
            if sign is not None:
                _store(sign, (), np.where(np.isnan(answer), answer, answer > -np.inf))
            _store(out, (), answer)

        if c.y is None or c.is_cut:
            _for_rows(block, c, reduces=True)
        else:
            self._weighted_logsumexp(c)

    def _weighted_logsumexp(self, c: _Call) -> None:
        """Write log(abs(sum(b exp(x)))) and the sum's sign."""

        def block(x: Array, b: Array, where: Array | None, out: Array, *sign: Array) -> None:
            answer, signs = _WeightedRows(x, b, c.k, where).log_sum()
            if sign:
                _store(sign[0], (), signs)
            else:
                answer = np.where(signs < 0, np.nan, answer)
            _store(out, (), answer)

        _for_blocks(block, c, c.x, c.y, c.where, *c.results)

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
        """Write -s sum(t log_softmax(x / T)) and its gradient s / T (sum(t) softmax(x / T) - t)."""
        assert c.y is not None
        by_index = c.y.dtype.kind in "iu"
        exact = not _is_narrow(c.x)
        n = c.x.shape[-1]
        labels = c.y.astype(np.int64)[..., np.newaxis] if by_index else c.y
        smoothing = _wide(c.x).type(c.smoothing)
        own = 1 - smoothing  # what a class keeps of its share; each that takes part gets `even` too
        own_low = (1 - own) - smoothing
        # With own = factor 2^k, 0.5 <= factor < 1, and power = 2^k, a target is factor times
        # (power share + even / factor), whose first product is exact.
        factor, k = np.frexp(own)
        power = np.ldexp(1.0, k)
        if own == 0:
            factor, power = smoothing, 0.0

        def locate(labels: Array, tile: Index) -> tuple[Array, tuple[Array, Array]]:
            """Return which rows have their label in a tile, and an index of the labels there."""
            labels = labels.reshape(-1, 1)
            first, last = (tile[-1].start, min(tile[-1].stop, n)) if tile else (0, n)
            column = np.minimum(np.maximum(labels, first), last - 1) - first
            return (labels >= first) & (labels < last), (np.arange(len(labels))[:, None], column)

        def of_indices(rows: _Rows, t: Array) -> tuple[_Pair, float]:
            """Return the losses of class indices, as high + low, and the sum of the targets."""
            high, low = rows.log_sum()
            even = smoothing / rows.count()
            for tile, part in rows.parts():
                if own != 0:
                    is_here, at = locate(t, tile)
                    d = np.where(is_here, part.d[at], 0.0)
                    high, error = _two_sum(high, -own * d)
                    low = low + (error - own_low * d)
                    if part.error is not None:
                        low = low - own * np.where(is_here, part.error[at], 0.0)
                if smoothing != 0:
                    sums = _sum(rows.masked(-even * part.d, tile), exact=exact)
                    high, error = _two_sum(high, sums[0])
                    low = low + (error + sums[1])
            return (high, low), 1.0

        def of_probabilities(rows: _Rows, t: Array) -> tuple[_Pair, Array]:
            """Return the losses of probabilities, as high + low, and the sum of the targets."""
            sums, masses = [], []
            even = (np.longdouble(smoothing) / rows.count() / factor).astype(_wide(c.x))
            for tile, part in rows.parts():
                share = _load(t, tile, 1)
                share = share.astype(np.promote_types(share.dtype, _wide(c.x)), copy=False)
                masses.append(_sum(share, exact=exact))
                if smoothing != 0:
                    share = share if power == 1 else power * share
                    share = share + rows.masked(even, tile)
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
                product = own * mass
                high, error = _two_sum(product, smoothing)
                error = error - _finite_or_0(_product_error(mass, own, product))
                mass, mass_low = _two_sum(high, error + (own_low * mass + own * mass_low))
            log, log_low = rows.log_sum()
            high, error = _two_sum(mass * log, -asked)
            return (high, error + (mass_low * log + mass * log_low - asked_low)), mass

        def unanswered(rows: _Rows, t: Array) -> Any:
            """Return the losses of rows without a finite maximum: of no class at all, inf or 0."""
            count = rows.count()
            if not np.count_nonzero(count == 0):
                return np.nan
            is_asked = True if by_index else np.max(t.reshape(-1, n) != 0, axis=-1, keepdims=True)
            return np.where(count > 0, np.nan, np.where(is_asked, np.inf, 0.0))

        def gradient(rows: _Rows, tile: Index, part: _Part, t: Array, mass: Any) -> _Pair:
            """Return the gradient of a tile, but for its factor; low is for a product with that."""
            result = part.softmax(rows.total)
            even = smoothing / rows.count()
            if by_index:
                is_here, at = locate(t, tile)
                if smoothing == 0:  # 1 - p without its cancellation
                    changed = -part.complement(rows.total, at)
                else:
                    changed = result[at] - (own + even)
                    result -= even
                result[at] = np.where(is_here, changed, result[at])
                return result, 0.0
            target = _load(t, tile, 1)
            if smoothing != 0:
                target = own * target
                target += even
            product = result * mass
            if not exact or (c.weight is None and rows.divisor is None):
                return product - target, 0.0
            high, low = _two_sum(product, -target)
            return high, low - _finite_or_0(_product_error(result, mass, product))

        def block(
            x: Array,
            t: Array,
            where: Array | None,
            temperature: float | Array,
            weight: float | Array | None,
            loss: Array,
            grad: Array | None,
        ) -> None:
            rows = _Rows(x, 1, where, temperature)
            pair, mass = of_indices(rows, t) if by_index else of_probabilities(rows, t)
            has_answer = np.isfinite(rows.shift)
            high = np.where(has_answer, pair[0], unanswered(rows, t))
            low = np.where(has_answer, pair[1], 0.0)
            factor = _Factor.of(x, weight, None)
            losses = factor.times(high, low) if factor else _rounded((high, low))
            if factor and rows.lifted is not None:
                lifted = mass * rows.lifted
                is_alone = np.abs(high - np.ldexp(lifted, -LIFT)) <= SMALLEST
                losses = np.where(is_alone, factor.lowered().times(lifted), losses)
            is_dropped = _dropped(t, c.ignored, weight)
            _store(loss, (), np.where(is_dropped, 0.0, losses))
            if grad is None:
                return
            factor = _Factor.of(x, weight, rows.divisor)
            for tile, part in rows.parts():
                result, low = gradient(rows, tile, part, t, mass)
                if factor:
                    once, result = result, factor.times(result, low)
                    far: Any = False
                    if x.dtype == np.float64:
                        far = (part.d > 2 * LOG_TINY) & (part.d < LOG_TINY / 2)
                        far &= np.abs(once) < TINY
                    if np.any(far):
                        lifted = mass * (_lifted_exp(part.d, part.error) / rows.total.high)
                        p = mass * part.softmax(rows.total)
                        lifted += np.ldexp(once, LIFT) - np.ldexp(p, LIFT)
                        result = np.where(far, factor.lowered().times(lifted), result)
                if np.count_nonzero(is_dropped):
                    result = np.where(is_dropped, 0.0, result)
                _store(grad, tile, result, where, 0.0)

        _for_blocks(block, c, c.x, labels, c.where, c.temperature, c.weight, c.out, c.second)


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

    def chosen(self, rows: Array) -> tuple[_Even, Array]:
        return self, rows[:, 0]


class _Ragged:
    """Rows of any length above 0 one after the other: elements and figures are 1-D."""

    def __init__(self, lengths: Array) -> None:
        self.starts = np.cumsum(lengths) - lengths
        self.lengths = lengths
        self.longest = int(np.max(lengths))

    def largest(self, values: Array) -> Array:
        return np.maximum.reduceat(values, self.starts)

    def add(self, values: Array) -> Array:
        return np.add.reduceat(values, self.starts)

    def spread(self, figures: Array) -> Array:
        return np.repeat(figures, self.lengths)

    def chosen(self, rows: Array) -> tuple[_Ragged, Array]:
        """Return the grid of the rows that are True, and an index of their elements."""
        return _Ragged(self.lengths[rows]), self.spread(rows)


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
        self, grid: _Grid, x: Array, shift: Array, divisor: _Pair | None, *, is_narrow: bool
    ) -> None:
        self.grid = grid
        self.d, self.error = _difference(x, grid.spread(shift), divisor, exact=not is_narrow)
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

    def lifted_rest(self, rows: Array) -> _Pair:
        """Return the sum of 2^LIFT times the weights below the maximum, of rows that are True."""
        assert self.error is not None
        grid, chosen = self.grid.chosen(rows)
        d = self.d[chosen]
        return _sum(np.where(d == 0, 0.0, _lifted_exp(d, self.error[chosen])), grid)

    def log_softmax(self, log_sum: Array) -> Array:
        log_sum = self.grid.spread(log_sum)
        if self.error is None:
            return self.d - log_sum
        result = log_sum - self.error
        np.subtract(self.d, result, out=result)
        return result

    def complement(self, total: _Total, at: Any) -> Array:
        """1 - softmax at one element a row, as (rest + (1 - w)) / sum: no term is negative."""
        return (total.rest - np.expm1(self.d[at])) / total.high


class _Rows:
    """A block of rows, whose parts may be gone through more than once; ragged ones are one part."""

    def __init__(
        self,
        x: Array,
        k: int,
        where: Array | None,
        temperature: float | Array,
        ragged: _Ragged | None = None,
    ) -> None:
        self.x, self.k, self.where, self.ragged = x, k, where, ragged
        self.divisor = _divisor(temperature, k)
        self.tiles = [()] if ragged else _tiles(x, k)
        self.only: _Part | None = None
        first, *others = self.tiles
        loaded = self.load(first)
        self.largest = self.grid(loaded).largest(loaded)
        for tile in others:
            self.largest = np.maximum(self.largest, _largest(self.load(tile)))
        self.shift = _shift(self.largest)
        if not others:
            self.only = self.part(loaded)
        self.total = _Total.of(self.sum())
        self.lifted: Array | None = None
        """2^LIFT times the logarithms of the sums, where they are tiny; else 0."""
        self._count: Any = None

    def load(self, tile: Index) -> Array:
        values = _load(self.x, tile, self.k, self.where)
        return values[0] if self.ragged else values

    def grid(self, values: Array) -> _Grid:
        return self.ragged or _Even(values.shape[-1])

    def part(self, x: Array) -> _Part:
        is_narrow = _is_narrow(self.x)
        return _Part(self.grid(x), x, self.shift, self.divisor, is_narrow=is_narrow)

    def count(self) -> Any:
        """Return how many elements take part: of all rows, or of each where there is a mask."""
        if self.where is None:
            return self.x.shape[-1]
        if self._count is None:
            self._count = sum(_add(_load(self.where, tile, self.k)) for tile in self.tiles)
        return self._count

    def masked(self, values: Any, tile: Index) -> Any:
        """Return values of a tile, 0 where masked."""
        if self.where is None:
            return values
        where = _at(self.where, tile)
        return np.where(where.reshape(-1, where.shape[-1]), values, 0.0)

    def parts(self) -> Iterator[tuple[Index, _Part]]:
        if self.only is not None:
            yield (), self.only
            return
        for tile in self.tiles:
            yield tile, self.part(self.load(tile))

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
        is_longer = self.ragged or math.prod(self.x.shape[-self.k :]) > 1
        if self.x.dtype == np.float64 and np.any(tiny) and is_longer:
            lifted = functools.reduce(_plus, (part.lifted_rest(tiny) for _, part in self.parts()))
            self.lifted = np.zeros_like(log)
            self.lifted[tiny] = _rounded(lifted).reshape(-1)
            log[tiny], low[tiny] = np.ldexp(self.lifted[tiny], -LIFT), 0.0
        return log, low


class _Factor(NamedTuple):
    """What losses and gradients are multiplied by, (high + low) 2^power, one of each row."""

    high: Array
    low: Array | None
    """None where float64 has digits to spare."""
    power: Any

    @classmethod
    def of(cls, x: Array, weight: float | Array | None, divisor: _Pair | None) -> _Factor | None:
        """Return s / T; None for 1."""
        if weight is None and divisor is None:
            return None
        scale, power = divisor or (1.0, 0)
        number = _load(weight, (), 1) if isinstance(weight, np.ndarray) else weight
        number, up = np.frexp(1.0 if number is None else number)
        number = np.asarray(number, _wide(x))
        high, power = number / scale, up - power
        # An ordinary power goes into the product, which costs less than a ldexp of each element.
        ordinary = np.where(np.abs(power) < LIFT, power, 0)
        low = None if _is_narrow(x) else _product_error(high, scale, number) / scale
        low = None if low is None else np.ldexp(low, ordinary)
        return cls(np.ldexp(high, ordinary), low, power - ordinary)

    def lowered(self) -> _Factor:
        return self._replace(power=self.power - LIFT)

    def times(self, values: Array, values_low: Any = 0.0) -> Array:
        """Return the product, rounded once."""
        product = values * self.high
        if self.low is not None:
            error = _finite_or_0(_product_error(values, self.high, product))
            product = _rounded((product, values * self.low + values_low * self.high - error))
        return np.ldexp(product, self.power) if np.count_nonzero(self.power) else product


class _WeightedRows:
    """A block of rows of terms b exp(x), taken relative to the largest term of each row."""

    def __init__(self, x: Array, b: Array, k: int, where: Array | None) -> None:
        self.x, self.b, self.k, self.where = x, b, k, where
        first, *self.others = _tiles(x, k)
        self.first = self.load(first)
        self.largest: Any = -np.inf  # of x
        self.top: Any = -np.inf  # x and b of the largest term, and where that is
        self.factor: Any = 1.0
        self.at: Any = (0, 0)
        self.is_moderate = True
        for i, (values, weights) in enumerate(self.tiles()):
            largest = _largest(values)
            logs = np.log(np.abs(weights))
            # x is shifted, since a large one would take the digits of what is added to it.
            column = np.argmax((values - _shift(largest)) + logs, axis=-1)[:, np.newaxis]
            at = np.arange(len(values))[:, np.newaxis], column
            gap = (values[at] - self.top) + (logs[at] - np.log(np.abs(self.factor)))
            self.top = np.where(gap > 0, values[at], self.top)
            self.factor = np.where(gap > 0, weights[at], self.factor)
            self.at = np.where(gap > 0, i, self.at[0]), np.where(gap > 0, column, self.at[1])
            self.largest = np.maximum(self.largest, largest)
            self.is_moderate &= not np.any((np.abs(logs) > 140) & (weights != 0))
        self.shift = np.where(np.isfinite(self.largest), self.top, np.nan)
        # b = mantissa 2^power, where the mantissa of 1 is 1, whose logarithm is 0.
        self.mantissa, self.power = np.frexp(self.factor)
        is_low = np.abs(self.mantissa) < math.sqrt(0.5)
        self.mantissa, self.power = self.mantissa * (1 + is_low), self.power - is_low

    def load(self, tile: Index) -> _Pair:
        """Return elements and weights; of what takes no part, -inf and 0."""
        weights = _load(self.b, tile, self.k, self.where, 0)
        weights = weights.astype(np.promote_types(_wide(self.x), weights.dtype), copy=False)
        return np.where(weights == 0, -np.inf, _load(self.x, tile, self.k)), weights

    def tiles(self) -> Iterator[_Pair]:
        yield self.first
        yield from map(self.load, self.others)

    def rest(self) -> _Pair:
        """Return the sum of all terms but the largest, as high + low.

        It is 2^LIFT / 2^power as large. So is each b; and where something might overflow or be a
        subnormal number, e^d is cut into a power of 2^LIFT, which goes there too, and a rest.
        """
        sums = []
        for i, (values, weights) in enumerate(self.tiles()):
            d, error = _difference(values, self.shift, None, exact=True)
            assert error is not None
            if self.is_moderate and not np.any((d < -700) & (d > -1500)):
                terms = weights * np.ldexp(1.0, LIFT - self.power) * np.exp(d)
            else:
                lifts = np.clip(np.rint(d / LOG_LIFT), -64, 64) * LIFT
                mantissas, powers = np.frexp(weights)
                powers += (lifts + LIFT).astype(powers.dtype) - self.power
                terms = np.ldexp(mantissas * np.exp(d - lifts * LOG_2), powers)
                error = error - lifts * LOG_2_LOW
                error += error * error / 2
            at = np.arange(len(d))[:, np.newaxis], np.minimum(self.at[1], d.shape[-1] - 1)
            terms[at] = np.where(self.at[0] == i, 0.0, terms[at])
            error = np.where(terms == 0, 0.0, error)  # may be beyond the dtype
            high, low = _sum(terms)
            sums.append((high, low + _add(terms * error)))
        return functools.reduce(_plus, sums)

    def log_sum(self) -> _Pair:
        """Return the logarithm of the sum's size, and the sum's sign."""
        unit = np.ldexp(self.mantissa, LIFT)
        rest, rest_low = _two_sum(*self.rest())
        rest_by_unit = rest / unit
        low = (_product_error(rest_by_unit, unit, rest) + rest_low) / unit
        total, total_low = _plus(_two_sum(np.ones_like(unit), rest_by_unit), (low, 0.0))
        total, total_low = _two_sum(total, total_low)
        is_near_1 = np.abs(rest_by_unit) < 0.5
        log = np.where(is_near_1, np.log1p(rest_by_unit), np.log(np.abs(total)))
        log_low = np.where(is_near_1, low / (1 + rest_by_unit), total_low / total)
        logs = [(log, log_low), (np.log(np.abs(self.mantissa)), 0.0)]
        logs += [(self.power * LOG_2, self.power * LOG_2_LOW), (self.shift, 0.0)]
        answer = _rounded(functools.reduce(_plus, logs))
        sign = np.sign(total) * np.sign(self.mantissa)
        # Of a row without an answer the largest element says which: -inf, inf or NaN.
        is_finite = np.isfinite(self.largest)
        answer = np.where(is_finite, answer, self.largest)
        if not np.all(is_finite):
            sign = np.where(is_finite, sign, self.sign_of_infinite())
        return np.where(np.isnan(sign), sign, answer), sign

    def sign_of_infinite(self) -> Array:
        """Return the sign of sums without a finite largest element."""
        infinite = [np.where(x == np.inf, np.sign(b), 0.0) for x, b in self.tiles()]
        highest = functools.reduce(np.maximum, map(_largest, infinite))
        lowest = functools.reduce(np.minimum, (-_largest(-signs) for signs in infinite))
        sign = np.where(highest + lowest == 0, np.nan, np.sign(highest + lowest))
        return np.where(self.largest == np.inf, sign, np.where(self.largest < 0, 0.0, np.nan))


def _is_narrow(x: Array) -> bool:
    """Whether float64 has digits to spare for x."""
    return x.dtype.itemsize < 8


def _wide(x: Array) -> np.dtype[Any]:
    """Return the dtype in which x is computed."""
    return np.dtype(np.float64) if _is_narrow(x) else x.dtype


def _shift(largest: Array) -> Array:
    return np.where(np.isfinite(largest), largest, np.nan)


def _divisor(temperature: float | Array, k: int) -> _Pair | None:
    """Return T = scale 2^power, 0.5 <= scale < 1 (of 1, 1); None for the number 1."""
    if not isinstance(temperature, np.ndarray):
        return None if temperature == 1.0 else math.frexp(temperature)
    scale, power = np.frexp(_load(temperature, (), k))
    is_1 = (scale == 0.5) & (power == 1)
    return scale + 0.5 * is_1, power - is_1


def _difference(
    x: Array, shift: Array, divisor: _Pair | None, *, exact: bool
) -> tuple[Array, Array | None]:
    """Return (x - shift) / T and, where `exact`, the error of that: what to add to it."""
    if divisor is not None:
        scale, power = divisor  # what overflows by the power does so by T
        fall = np.maximum(power, 0)
        if np.count_nonzero(fall):  # before the difference, which might overflow
            x, shift, power = np.ldexp(x, -fall), np.ldexp(shift, -fall), power - fall
    d = x - shift
    if not exact:
        return (d if divisor is None else np.ldexp(d, -power) / scale), None
    back = d - x
    error = d - back
    np.subtract(x, error, out=error)
    back += shift
    error -= back
    if divisor is not None:
        d, error = np.ldexp(d, -power), np.ldexp(error, -power)
        quotient = d / scale
        error = (_product_error(quotient, scale, d) + error) / scale
        d = quotient
    # inf - inf: an element that is -inf, or beyond what the dtype can say.
    return d, _finite_or_0(error)


def _product_error(a: Array, b: Any, near: Array) -> Array:
    """Return near - a b, which is small and exact (Dekker, 1971)."""
    factor = a.dtype.type(2 ** ((np.finfo(a.dtype).nmant + 2) // 2) + 1)

    def halves(value: Any) -> tuple[Any, Any]:
        scaled = factor * value
        high = scaled - (scaled - value)
        return high, value - high

    a_high, a_low = halves(a)
    b_high, b_low = halves(np.asarray(b, a.dtype))
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


def _sum(values: Array, grid: _Grid | None = None, *, exact: bool = True) -> _Pair:
    """Return the sum of each row as high + low, of which only low is rounded: see (d)."""
    if not exact:
        return _add(values), 0.0
    grid = grid or _Even(values.shape[-1])
    heads = np.abs(values)
    cut = grid.spread(_cut(grid.largest(heads), grid.longest))
    np.add(values, cut, out=heads)
    heads -= cut
    high = grid.add(heads)
    np.subtract(values, heads, out=heads)
    return high, grid.add(heads)


def _sum_of_tiles(tiles: Iterable[Array], *, exact: bool = True) -> _Pair:
    """Return the sum of rows that come tile by tile, as high + low."""
    return functools.reduce(_plus, (_sum(values, exact=exact) for values in tiles))


def _rounded(pair: _Pair) -> Array:
    """Return high + low; of an infinite high there is no low."""
    high, low = pair
    return np.where(np.isfinite(high), high + low, high)


def _dropped(labels: Array, ignored: int | None, weight: float | Array | None) -> Any:
    """Return which rows of a block have a loss and a gradient of 0, whatever they hold."""
    is_ignored: Any = False if ignored is None else labels.reshape(-1, 1) == ignored
    return is_ignored if weight is None else is_ignored | (np.reshape(weight, (-1, 1)) == 0)


def _lifted_exp(x: Array, error: Any) -> Array:
    """Return e^(x + error) 2^LIFT, for x from -1500 to -200: that is no subnormal number."""
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


def _for_blocks(call: Callable[..., None], c: _Call, *arguments: Any) -> None:
    """Cut arrays of the same leading axes into blocks of whole rows; others stay as they are."""
    shape = c.x.shape
    lead = len(shape) - c.k
    rows = max(1, BLOCK // math.prod(shape[lead:]))
    pieces = _pieces(shape[:lead], rows)
    blocks = ([a[piece] if isinstance(a, np.ndarray) else a for a in arguments] for piece in pieces)
    _for_each(call, blocks)


def _for_rows(call: Callable[..., None], c: _Call, *, reduces: bool = False) -> None:
    """Call `call` with blocks of rows and what there is of the results for them."""

    def block(x: Array, where: Array | None, temperature: float | Array, *results: Array) -> None:
        call(_Rows(x, c.k, where, temperature), *results)

    if not c.is_cut:
        _for_blocks(block, c, c.x, c.where, c.temperature, *c.results)
        return
    assert c.y is not None
    indptr = c.y.astype(np.int64)
    filled = np.flatnonzero(np.diff(indptr))
    bounds = np.append(indptr[filled], indptr[-1])
    others = c.x.shape[:-1]

    def runs() -> Iterator[tuple[int, int]]:
        """As many segments as fit a block; one alone may be longer."""
        first, most = 0, BLOCK // math.prod(others)
        while first < len(filled):
            last = int(np.searchsorted(bounds, bounds[first] + most, side="right")) - 1
            last = max(last, first + 1)
            yield first, last
            first = last

    def run(first: int, last: int) -> None:
        start, stop = bounds[first], bounds[last]
        x = c.x[..., start:stop]
        out = c.out[..., start:stop]
        if reduces:
            out = np.empty((*others, last - first), c.out.dtype)
        if last == first + 1:
            _for_blocks(block, c._replace(x=x), x, None, c.temperature, out)
        else:
            lengths = np.tile(np.diff(bounds[first : last + 1]), math.prod(others))
            call(_Rows(x.reshape(-1), 1, None, c.temperature, _Ragged(lengths)), out)
        if reduces:
            c.out[..., filled[first:last]] = out

    if reduces:
        c.out[...] = -np.inf  # of the empty segments
    _for_each(run, runs())


def _tiles(x: Array, k: int) -> list[Index]:
    """Cut long rows into tiles: indices into the last `k` axes, each of them given or none."""
    shape = x.shape[-k:]
    if math.prod(shape) <= BLOCK:
        return [()]
    whole = (slice(None),) * k
    return [(*piece, *whole[len(piece) :]) for piece in _pieces(shape, BLOCK)]
