"""The NumPy implementation: the fallback, and the readable specification of every function.

Design
------
(a) A row is shifted by its maximum, ``d = x - max``, as everywhere; but the rounding error ``e`` of
    that difference is kept, since exp would turn it into hundreds of ulp: exp(d + e) = w + w e.
    The weights of a softmax are exp(x), of no difference, where their sum is from LEAST to HUGE:
    nothing overflows, and what is subnormal is no more than rounding in the result.
(b) float16, bfloat16 and float32 are computed in float64 and rounded once, at the end. The error of
    a difference is then too small to matter and is not computed.
(c) Answers near 0 need the sum of the weights without the maximal one, whose weight is exactly 1.
    That is the sum minus 1, but in rows where it is small: there it is summed again, without it.
(d) float64 sums are taken without rounding: each number is cut at a bit common to its row into a
    head, of which any number add exactly, and a tail, whose sum is too small for its rounding to
    matter (Rump, Ogita and Oishi, "Accurate floating-point summation", 2008).
(e) Large arrays are computed a block of rows at a time, so that the float64 temporaries stay small
    and in cache, and a row of more than LONG elements tile by tile, its weights twice.
(f) Short rows are laid out as columns, since NumPy's loops are slow along axes of a few elements.
    The layout depends on the length alone, so that a row has the same bits in any batch.
(g) A masked element is -inf on the way in, which gives it no weight, and is overwritten on the way
    out. A row without an answer (a kept NaN or +inf, or nothing above -inf) becomes NaN by itself.
(h) What underflows on the way would be an error of many ULP where the result is small too: of the
    sum in (c), of the products that softmax_backward adds up, of exp(y) where sum(g) is large. That
    is computed 2^LIFT as large, or by the square of exp(y / 2).
(i) Segments of one length are the rows of an array, so each has the bits that it has by itself.
(j) The terms of a logsumexp with weights, b exp(x), are relative to the largest term: it is taken
    out of the sum, and its logarithm is x + log(b), where x is exact and log(b) has two parts. The
    others may have any sign, and differ from it by any power of two in both of b and exp(x).

Accuracy
--------
float32 and narrower: the rounding at the end, 0.5 ULP (a little more for bfloat16, which is rounded
by way of float32). float64: at most 4 ULP in what ``python -m benchmarks search`` found,
where exp and log1p are glibc's, which are right to 0.51 and 0.85 ULP; tests/test_accuracy.py has
rows that come near the largest errors. On x86-64 with AVX-512 both are NumPy's own.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    from numpy.typing import NDArray

    from fastsoftmax._rules import Plan

    Array: TypeAlias = NDArray[Any]
    Index: TypeAlias = tuple[Any, ...]
    _Pair: TypeAlias = tuple[Any, Any]

_Function = TypeVar("_Function", bound="Callable[..., Any]")

DOUBLE = np.dtype(np.float64)
BLOCK = 1 << 15  # elements: the float64 temporaries of a block then fit a 1 MiB L2
LONG = 1 << 17  # elements: rows that are computed tile by tile
SHORT = 32  # elements: rows that are laid out as columns
SMALL = 2.0**-12  # sums of weights without the largest that are computed again
TINY = 2.0**-960  # float64 sums that may have lost terms below 2^-1074
LEAST = (2.0**-800, 1.0)  # for results narrower than float64, and for others
HUGE = 2.0**960
LOG_TINY = -700.0  # where exp is near the subnormal numbers
LIFT = 544
# log(2) = LOG_2 + LOG_2_LOW, where the product of LOG_2 and an exponent is exact.
LOG_2 = float.fromhex("0x1.62e42fefap-1")
LOG_2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")


class NumpyBackend:
    """Every function of the package by NumPy; `fastsoftmax._backend.Backend` is the protocol."""

    name = "numpy"

    def function(self, general: _Function) -> _Function:
        """Return the general function: there is no shortcut."""
        return general

    def run(self, plan: Plan) -> Any:
        """Compute a plan."""
        with np.errstate(all="ignore"):
            if plan.function.startswith("segment_"):
                return _segments(plan)
            call = _Call(plan)
            getattr(call, plan.function)()
        return call.results


def _segments(plan: Plan) -> Any:
    """Compute the rows that row pointers cut the first axis into, those of one length together."""
    x, function = plan.x, plan.function.removeprefix("segment_")
    out = np.empty(plan.shape, plan.result) if plan.out is None else plan.out
    reduces = function == "logsumexp"
    if reduces:
        out[...] = -np.inf  # of the empty segments
    assert plan.y is not None
    starts = plan.y[:-1].astype(np.int64)
    lengths = plan.y[1:].astype(np.int64) - starts
    order = np.argsort(lengths, kind="stable")
    found, first = np.unique(lengths[order], return_index=True)
    plan = plan._replace(function=function, axis=1, y=None)
    for n, of_length in zip(found.tolist(), np.split(order, first[1:]), strict=True):
        step = max(1, BLOCK // max(1, n * math.prod(x.shape[1:])))
        for i in range(0, len(of_length) if n else 0, step):
            rows = of_length[i : i + step]
            if len(rows) == 1:  # no copy: it may be long
                row, start = int(rows[0]), int(starts[rows[0]])
                into = out[row : row + 1] if reduces else out[np.newaxis, start : start + n]
                call = _Call(plan._replace(x=x[np.newaxis, start : start + n], out=into))
                getattr(call, function)()
                continue
            at = starts[rows][:, np.newaxis] + np.arange(n)
            call = _Call(plan._replace(x=x[at], out=None))
            getattr(call, function)()
            out[rows if reduces else at] = call.out
    return out


class _Call:
    """A plan with its reduced axes last, as blocks of rows.

    In a block an array is (rows, n), or (n, rows) of short rows, in the dtype that is computed in;
    figures, of which a row has one, have that shape with n = 1.
    """

    def __init__(self, plan: Plan) -> None:
        x, axis, result = plan.x, plan.axis, plan.result
        axes = axis if isinstance(axis, tuple) else (axis,)
        self.plan = plan
        first = x.ndim - len(axes)
        self.order: tuple[int, ...] | None = None
        self.lead, inner = x.shape[:first], x.shape[first:]
        if axes and axes[0] != first:
            kept = [d for d in range(x.ndim) if d not in axes]
            self.order = (*kept, *axes)
            self.lead, inner = (tuple(x.shape[d] for d in ds) for ds in (kept, axes))
        self.n = math.prod(inner)
        self.is_wide = result.itemsize >= 8
        self.wide = result if self.is_wide else DOUBLE
        self.is_short = self.n <= SHORT
        self.axis = 0 if self.is_short else 1
        self.tiles: list[Index] = [()]
        if self.n > LONG:
            whole = (slice(None),) * len(axes)
            self.tiles = [(..., *tile, *whole[len(tile) :]) for tile in _pieces(inner, BLOCK)]
        self.x = self.rows(x)
        reduces = plan.function in ("logsumexp", "softmax_cross_entropy")
        if plan.out is not None:
            self.out: Array = plan.out
        else:
            self.out = np.empty(plan.shape, result) if reduces else np.empty_like(x, result)
        self.second = plan.grad
        if plan.return_sign:
            self.second = np.empty(plan.shape, result)
        elif plan.return_grad and plan.grad is None:
            self.second = np.empty_like(x, result)
        self.where = None if plan.where is None else self.rows(np.broadcast_to(plan.where, x.shape))
        self.temperature: Any = plan.temperature
        if isinstance(plan.temperature, np.ndarray):
            one_each = [1 if d in axes else n for d, n in enumerate(x.shape)]
            self.temperature = np.broadcast_to(plan.temperature, one_each).reshape(self.lead)
        elif plan.temperature == 1.0:
            self.temperature = None

    @property
    def results(self) -> Any:
        """What the caller is to have: a scalar if it is 0-d and not given."""
        out = self.out[()] if self.plan.out is None else self.out
        if self.second is None:
            return out
        return out, self.second[()] if self.plan.grad is None else self.second

    def rows(self, array: Array) -> Array:
        """Return a view with the reduced axes last."""
        return array if self.order is None else array.transpose(self.order)

    def blocks(self) -> Iterable[Index]:
        """Return indices of blocks of whole rows, into the other axes."""
        if self.plan.x.size <= BLOCK:
            return ((...,),)
        return _pieces(self.lead, max(1, BLOCK // self.n))

    def load(
        self, array: Array, tile: Index = (), dtype: Any = None, *,
        where: Array | None = None, masked: float = -np.inf,
    ) -> Array:  # fmt: skip
        """Return rows of a block, or a tile of them, to be read: `masked` where masked."""
        if tile:
            array = array[tile]
        if dtype is None:
            dtype = self.wide
            if array.dtype != self.plan.result:
                array = array.astype(self.plan.result)
        array = array.reshape(1, -1) if tile else array.reshape(-1, self.n)
        array = (array.T if self.is_short else array).astype(dtype, order="C", copy=False)
        return array if where is None else np.where(self.load(where, tile, bool), array, masked)

    def figures(self, array: Any, block: Any = ..., dtype: Any = None) -> Any:
        """Return what a block has one of for each row; a number as it is."""
        if not isinstance(array, np.ndarray):
            return array
        found = array[block].astype(dtype or self.wide)
        return found.reshape((1, -1) if self.is_short else (-1, 1))

    def store(
        self, out: Array, tile: Index, values: Array, *, is_clean: bool,
        where: Array | None = None, masked: float = 0.0,
    ) -> None:  # fmt: skip
        """Round values into a block, `masked` where masked; every NaN has one bit pattern."""
        if not is_clean:
            np.copyto(values, np.nan, where=np.isnan(values))
        if tile:
            out = out[tile]
        out[...] = (values.T if self.is_short else values).reshape(out.shape)
        if where is not None:
            np.copyto(out, masked, casting="unsafe", where=~(where[tile] if tile else where))

    def add(self, values: Array) -> Array:
        """Return the sum of each row, in an order that depends on its length alone."""
        if self.is_short and values.shape[1] == 1:  # which NumPy would add up as a contiguous row
            return np.add.accumulate(values, axis=0)[-1:]
        return np.add.reduce(values, axis=self.axis, keepdims=True)

    def largest(self, values: Array) -> Array:
        return np.maximum.reduce(values, axis=self.axis, keepdims=True)

    def sum(
        self, values: Array, cut: Any = None, *, times: Any = None, exact: bool = False
    ) -> _Pair:
        """Return the sum of each row, with its numbers times 1 + `times`, as high + low.

        Of exact sums only low is rounded: see (d). `cut` is above any partial sum.
        """
        if not (exact or self.is_wide):
            return self.add(values), 0.0
        if cut is None:
            exponent = np.frexp(self.largest(np.abs(values)))[1] + self.n.bit_length()
            limit = np.finfo(values.dtype).maxexp - 1
            cut = np.ldexp(values.dtype.type(1), np.minimum(exponent, limit))
        heads = values + cut
        heads -= cut
        high = self.add(heads)
        tails = np.subtract(values, heads, out=heads)
        if times is not None:
            tails += values * times
        low = self.add(tails)
        return high, low if _are_finite(low) else np.where(np.isfinite(high), low, 0.0)

    def total(self, tiles: Iterable[Array]) -> _Pair:
        """Return the sum of each row that comes tile by tile, as high + low."""
        return functools.reduce(_plus, map(self.sum, tiles))

    def softmax(self) -> None:
        """Write exp(x / T) / sum(exp(x / T))."""
        out = self.rows(self.out)
        for block in self.blocks():
            rows = _Rows(self, block, of_logs=False)
            for tile, _, error, y in rows.parts():
                rows.divide(y, error)
                self.store(out[block], tile, y, is_clean=rows.is_clean, where=rows.where)

    def log_softmax(self) -> None:
        """Write x / T - log(sum(exp(x / T)))."""
        out = self.rows(self.out)
        for block in self.blocks():
            rows = _Rows(self, block)
            log, low = rows.log()
            log = log + low if self.is_wide else log
            for tile, d, error, _ in rows.parts():
                d -= log if error is None else np.subtract(log, error, out=error)
                self.store(
                    out[block], tile, d, is_clean=rows.is_clean, where=rows.where, masked=-np.inf
                )

    def logsumexp(self) -> None:
        """Write log(abs(sum(b exp(x)))) and the sum's sign."""
        out = self.out.reshape(self.lead)
        signs = None if self.second is None else self.second.reshape(self.lead)
        for block in self.blocks():
            if self.plan.y is not None:
                answer, sign = _weighted_logsumexp(self, block)
            else:
                rows = _Rows(self, block)
                log, low = rows.log()
                high, error = _two_sum(rows.top, log)
                # Of a row without an answer the largest element says which: -inf, inf or NaN.
                answer = high + (error + low)
                if not rows.is_clean:
                    answer = np.where(np.isfinite(rows.top), answer, rows.top)
                sign = np.where(np.isnan(answer), answer, answer > -np.inf)
            self.store(out[block], (), answer, is_clean=False)
            if signs is not None:
                self.store(signs[block], (), sign, is_clean=False)

    def softmax_backward(self) -> None:
        """Write y (g - sum(g y))."""
        assert self.plan.y is not None
        out, y_rows = self.rows(self.out), self.rows(self.plan.y)
        for block in self.blocks():
            g, y = (
                functools.partial(self.load, self.x[block]),
                functools.partial(self.load, y_rows[block]),
            )
            inner = _rounded(self.total(g(tile) * y(tile) for tile in self.tiles))
            if self.wide == np.float64 and np.count_nonzero(np.abs(inner) < TINY):
                lifted = _rounded(
                    self.total(g(tile) * np.ldexp(y(tile), LIFT) for tile in self.tiles)
                )
                is_tiny = (np.abs(inner) < TINY) & np.isfinite(lifted)
                inner = np.where(is_tiny, np.ldexp(lifted, -LIFT), inner)
            is_clean = _are_finite(inner)
            for tile in self.tiles:
                self.store(out[block], tile, y(tile) * (g(tile) - inner), is_clean=is_clean)

    def log_softmax_backward(self) -> None:
        """Write g - exp(y) sum(g), over what is not masked."""
        assert self.plan.y is not None
        out, y_rows = self.rows(self.out), self.rows(self.plan.y)
        for block in self.blocks():
            g, y = self.x[block], y_rows[block]
            where = None if self.where is None else self.where[block]
            taken = functools.partial(self.load, g, where=where, masked=0.0)
            total = _rounded(self.total(map(taken, self.tiles)))
            for tile in self.tiles:
                logs = self.load(y, tile, where=where)
                product = np.exp(logs)
                product *= total
                if self.wide == np.float64 and np.minimum.reduce(logs, axis=None) < LOG_TINY:
                    half = np.exp(logs / 2)
                    product = np.where(logs < LOG_TINY, half * total * half, product)
                self.store(out[block], tile, taken(tile) - product, is_clean=False, where=where)

    def softmax_cross_entropy(self) -> None:
        """Write -s sum(t log_softmax(x / T)) and its gradient s / T (sum(t) softmax(x / T) - t)."""
        plan = self.plan
        assert plan.y is not None
        by_index = plan.y.dtype.kind in "iu"
        labels = plan.y if by_index else self.rows(plan.y)
        out = self.out.reshape(self.lead)
        grad = None if self.second is None else self.rows(self.second)
        weights: Any = 1.0 if plan.sample_weight is None else plan.sample_weight
        if isinstance(weights, np.ndarray):
            weights = np.broadcast_to(weights, self.lead)
        # Figures are computed in long double where float64 has no digits to spare.
        asked: Any
        mass: Any
        is_wide = self.is_wide or plan.y.dtype.char == "g"
        figure = np.longdouble if is_wide else np.float64
        smoothing = figure(plan.label_smoothing)
        own = 1 - smoothing  # what a class keeps of its share; each that takes part gets `even` too
        for block in self.blocks():
            rows = _Rows(self, block)
            t = labels[block]
            weight = self.figures(weights, block)
            dropped = weight == 0
            if by_index:
                if plan.ignore_index is not None:
                    dropped = dropped | (self.figures(t, dtype=np.int64) == plan.ignore_index)
                label = _clipped(t.astype(np.int64).reshape(-1), 0, self.n - 1)
                at = np.arange(len(label)), label
                d, error = rows.at(at)
                asked, mass = d.astype(figure) + error, figure(1)
            else:
                asked, mass = (_rounded(pair, figure) for pair in rows.asked(t))
            is_asked = mass != 0
            count = rows.count()
            even = smoothing / count
            if smoothing != 0:
                asked = even * _rounded(rows.sum_of_d(), figure) + (own * asked if own else 0)
                mass = own * mass + smoothing
            log, log_low = rows.log()
            loss = weight * (mass * (log.astype(figure) + log_low) - asked)
            if rows.where is not None:  # a row of no class at all
                loss = np.where(count == 0, np.where(is_asked, weight * np.inf, 0.0), loss)
            self.store(out[block], (), np.where(dropped, 0.0, loss), is_clean=False)
            if grad is None:
                continue
            slope = figure(1) * weight / (1.0 if rows.divisor is None else rows.divisor)
            scale = mass * slope / (rows.high.astype(figure) + rows.low)
            once = scale.astype(self.wide)
            again = _finite_or_0(((scale - once) / once).astype(self.wide))
            share, even = (np.asarray(a * slope, self.wide) for a in (own, even))
            if by_index:
                of_label = scale * np.exp(d) * (1 + error) - share - even
                if smoothing == 0:  # without the cancellation
                    rest, rest_low = rows.rest()
                    of_label = scale * (
                        np.expm1(d) + error * np.exp(d) - (rest.astype(figure) + rest_low)
                    )
                of_label = np.where(dropped, 0.0, of_label)
            for tile, _, low, w in rows.parts():
                y = w * once
                if low is not None:
                    y += y * (low + again)
                if not by_index:
                    y = y - self.load(t, tile, np.promote_types(t.dtype, self.wide)) * share
                if smoothing != 0:
                    y -= even
                if np.count_nonzero(dropped):
                    y = np.where(dropped, 0.0, y)
                if by_index:
                    column = label - (tile[-1].start if tile else 0)
                    here = (column >= 0) & (column < y.shape[self.axis])
                    by_row = y.T if self.is_short else y
                    by_row[at[0][here], column[here]] = of_label.reshape(-1)[here]
                is_clean = rows.is_clean and by_index
                self.store(grad[block], tile, y, is_clean=is_clean, where=rows.where)


class _Rows:
    """A block of rows, whose parts, one or all tiles, may be gone through more than once."""

    def __init__(self, call: _Call, block: Index, *, of_logs: bool = True) -> None:
        is_wide = call.is_wide
        self.call, self.x = call, call.x[block]
        self.where = None if call.where is None else call.where[block]
        self.divisor = call.figures(call.temperature, block)
        self.mends = is_wide and self.where is not None
        self.shift: Any = None
        self.only: tuple[tuple[Index, Array, Array | None, Array]] | None = None
        self.low: Any = 0.0
        self.whole = None if call.tiles[0] else call.load(self.x, where=self.where)
        if of_logs or self.divisor is not None:
            self.shift = self.top = self.largest()
            self.cut: Any = 2.0 * (1 << call.n.bit_length())  # no weight is above 1
            self.high, self.low = self.sum()
        else:
            self.high = self.mass()
            if not _are_within(self.high, LEAST[is_wide], HUGE):
                fits = (self.high >= LEAST[is_wide]) & (self.high <= HUGE)
                self.shift = np.where(fits, 0.0, self.largest())
                self.only = None
                self.high = self.mass()
            if is_wide:
                self.cut = np.ldexp(2.0, np.frexp(self.high)[1])
                self.high, self.low = self.sum()
        self.is_clean = self.shift is None or _are_finite(self.high + self.low)
        if not self.is_clean and is_wide and not self.mends:
            self.mends, self.only = True, None
            self.high, self.low = self.sum()

    def load(self, tile: Index) -> Array:
        return self.call.load(self.x, tile, where=self.where) if self.whole is None else self.whole

    def largest(self) -> Array:
        tops = [self.call.largest(self.load(tile)) for tile in self.call.tiles]
        return functools.reduce(np.maximum, tops)

    def mass(self) -> Array:
        """Return the sum of the weights, rounded."""
        sums = [self.call.add(part[3]) for part in self.parts()]
        return sums[0] if len(sums) == 1 else functools.reduce(np.add, sums)

    def mask(self, tile: Index) -> Array:
        assert self.where is not None
        return self.call.load(self.where, tile, bool)

    def part(self, x: Array) -> tuple[Array, Array | None, Array]:
        """Return (x - shift) / T, its error (None where none matters), and its exponential."""
        if self.shift is None:
            return x, None, np.exp(x)
        d, error = _difference(x, self.shift, self.divisor, exact=self.call.is_wide)
        if self.mends and error is not None:
            error = _finite_or_0(error)  # inf - inf: of -inf, or beyond what the dtype can say
        return d, error, np.exp(d)

    def parts(self) -> Iterable[tuple[Index, Array, Array | None, Array]]:
        """Return the parts one by one, or the only one, which is kept."""
        if self.whole is None:
            return ((tile, *self.part(self.load(tile))) for tile in self.call.tiles)
        if self.only is None:
            self.only = (((), *self.part(self.whole)),)
        return self.only

    def sum(self) -> _Pair:
        """Return the sum of the weights, as high + low."""
        sums = [self.call.sum(w, self.cut, times=error) for _, _, error, w in self.parts()]
        return functools.reduce(_plus, sums)

    def divide(self, w: Array, error: Array | None) -> None:
        """Divide weights by their sum."""
        if not self.call.is_wide:
            w /= self.high
            return
        total = self.high + self.low
        lost = ((self.high - total) + self.low) / total
        w /= total
        w += w * (-lost if error is None else error - lost)

    def rest(self) -> _Pair:
        """Return the sum of the weights without the largest, as high + low."""
        rest, low = self.high - 1, np.zeros(self.high.shape)
        if self.call.is_wide:
            rest, low = _two_sum(rest, self.low)
        if self.call.n > 1 and not _are_within(rest, SMALL, np.inf):
            is_small = (rest < SMALL).reshape(-1)
            sums = (self.lifted(is_small, d, error) for _, d, error, _ in self.parts())
            found = (np.ldexp(number, -LIFT) for number in _two_sum(*functools.reduce(_plus, sums)))
            for figures, again in zip((rest, low), found, strict=True):
                figures.reshape(-1)[is_small] = again.reshape(-1)
        return rest, low

    def lifted(self, chosen: Array, d: Array, error: Array | None) -> _Pair:
        """Return the sum of 2^LIFT times the weights below the largest, of chosen rows."""
        d = d.compress(chosen, 1 - self.call.axis)
        w = np.exp(d) * 2.0**LIFT
        is_deep = d < LOG_TINY
        if np.count_nonzero(is_deep):
            w = np.where(is_deep, np.square(np.exp(d / 2) * 2.0 ** (LIFT // 2)), w)
        w[d == 0] = 0.0
        error = None if error is None else error.compress(chosen, 1 - self.call.axis)
        return self.call.sum(w, times=error)

    def log(self) -> _Pair:
        """Return the logarithm of the sum of the weights, as high + low."""
        rest, low = self.rest()
        return np.log1p(rest), low / (1 + rest) if self.call.is_wide else 0.0

    def count(self) -> Any:
        """Return how many elements take part: of all rows, or of each where there is a mask."""
        if self.where is None:
            return self.call.n
        counts = (self.call.add(self.mask(tile).astype(float)) for tile in self.call.tiles)
        return functools.reduce(np.add, counts)

    def at(self, index: tuple[Array, Array]) -> _Pair:
        """Return d and its error of one element of each row."""
        call = self.call
        x = self.x.reshape(-1, call.n)[index].astype(call.plan.result)
        d, error = _difference(call.figures(x), self.top, self.divisor, exact=call.is_wide)
        if self.where is not None:
            d = np.where(
                call.figures(self.where.reshape(-1, call.n)[index], dtype=bool), d, -np.inf
            )
        return d, 0.0 if error is None else _finite_or_0(error)

    def sum_of_d(self) -> _Pair:
        """Return the sum of (x - top) / T."""
        sums = []
        for tile, d, error, _ in self.parts():
            if self.where is not None:
                d = np.where(self.mask(tile), d, 0.0)
            sums.append(self.call.sum(d))
            if error is not None:
                sums.append((self.call.add(error), 0.0))
        return functools.reduce(_plus, sums)

    def asked(self, t: Array) -> tuple[_Pair, _Pair]:
        """Return the sums of t d and of t."""
        call = self.call
        asked, masses = [], []
        for tile, d, error, _ in self.parts():
            share = call.load(t, tile, np.promote_types(t.dtype, call.wide))
            masses.append(call.sum(share))
            terms = share * d
            # A class that is not asked for costs nothing, impossible (-inf) or not.
            if not _are_finite(call.add(terms)):
                terms[share == 0] = 0.0
            asked.append(call.sum(terms))
            if error is not None:
                asked.append((call.add(share * _finite_or_0(error)), 0.0))
        return functools.reduce(_plus, asked), functools.reduce(_plus, masses)


def _weighted_logsumexp(call: _Call, block: Index) -> _Pair:
    """Return log(abs(sum(b exp(x)))) and the sum's sign, for a block of rows."""
    plan = call.plan
    assert plan.y is not None
    b_rows = call.rows(np.broadcast_to(plan.y, plan.x.shape))[block]
    where = None if call.where is None else call.where[block]
    dtype = np.promote_types(call.wide, b_rows.dtype)

    def tiles() -> Iterator[_Pair]:
        """Give elements and weights; of what takes no part, -inf and 0."""
        for tile in call.tiles:
            b = call.load(b_rows, tile, dtype)
            if where is not None:
                b = np.where(call.load(where, tile, bool), b, 0.0)
            yield np.where(b == 0, -np.inf, call.load(call.x[block], tile)), b

    largest = functools.reduce(np.maximum, (call.largest(x) for x, _ in tiles()))
    # The largest term: its place, x and b. x is shifted, or it would take the digits of log(b).
    best: Any = -np.inf
    top: Any = -np.inf
    factor: Any = 1.0
    at: Any = (0, 0)
    for i, (x, b) in enumerate(tiles()):
        places = (x - largest) + np.log(np.abs(b))
        index = np.expand_dims(np.argmax(places, axis=call.axis), call.axis)
        place, x, b = (np.take_along_axis(a, index, call.axis) for a in (places, x, b))
        is_better = place > best
        best, top, factor = (
            np.where(is_better, new, old) for new, old in ((place, best), (x, top), (b, factor))
        )
        at = np.where(is_better, i, at[0]), np.where(is_better, index, at[1])
    # b = mantissa 2^power, where the mantissa of 1 is 1, whose logarithm is 0.
    mantissa, power = np.frexp(factor)
    is_low = np.abs(mantissa) < math.sqrt(0.5)
    mantissa, power = mantissa * (1 + is_low), power - is_low
    sums = []
    for i, (x, b) in enumerate(tiles()):
        d, error = _difference(x, top, None, exact=True)
        assert error is not None
        # e^d = 2^q e^r, where the powers of two are those of no subnormal number.
        d = _clipped(d, -20000, 20000)
        q = np.where(np.abs(d) < 600, 0, np.rint(d / LOG_2))
        mantissas, powers = np.frexp(b)
        powers += q.astype(powers.dtype) - power + LIFT
        terms = np.ldexp(mantissas * np.exp(d - q * LOG_2), powers)
        columns = np.expand_dims(
            np.arange(call.n if len(call.tiles) == 1 else d.shape[1]), 1 - call.axis
        )
        terms[(columns == at[1]) & (at[0] == i)] = 0.0
        error = np.where(terms == 0, 0.0, error - q * LOG_2_LOW)
        sums.append(call.sum(terms, times=error, exact=True))
    rest, low = functools.reduce(_plus, sums)
    unit = np.ldexp(mantissa, LIFT)
    total, total_low = _plus((unit, 0.0), (rest, low))
    ratio = (rest + low) / unit
    is_near = ratio > -0.5  # 1, that is
    left, left_power = np.frexp(total + total_low)
    log = np.where(is_near, np.log(np.abs(mantissa)) + np.log1p(ratio), np.log(np.abs(left)))
    power = np.where(is_near, power, power + left_power - LIFT)
    high, error = _plus(_two_sum(top, power * LOG_2), (log, power * LOG_2_LOW))
    answer, sign = _rounded((high, error)), np.sign(left)
    # Of a row without an answer the largest element says which: -inf, inf or NaN.
    is_finite = np.isfinite(largest)
    if np.count_nonzero(~is_finite):
        signs = [np.where(x == np.inf, np.sign(b), 0.0) for x, b in tiles()]
        up = functools.reduce(np.maximum, map(call.largest, signs))
        down = -functools.reduce(np.maximum, (call.largest(-s) for s in signs))
        of_inf = np.where(up + down == 0, np.nan, np.sign(up + down))
        others = np.where(largest == np.inf, of_inf, np.where(largest < 0, 0.0, np.nan))
        sign = np.where(is_finite, sign, others)
        answer = np.where(is_finite, answer, np.where(np.isnan(sign), np.nan, largest))
    if not plan.return_sign:
        answer = np.where(sign < 0, np.nan, answer)
    return answer, sign


def _difference(x: Array, top: Array, divisor: Any, *, exact: bool) -> tuple[Array, Array | None]:
    """Return (x - top) / T and, where `exact`, the error of that: what to add to it."""
    if not exact:  # x is a copy
        x -= top
        return (x if divisor is None else np.divide(x, divisor, out=x)), None
    if divisor is None:
        return _two_sum(x, -top)
    power = _clipped(np.frexp(divisor)[1], -1000, 1000)
    lower = np.ldexp(1.0, -np.maximum(power, 1))  # so that the difference does not overflow
    d, error = _two_sum(x * lower, -top * lower)
    higher = np.ldexp(1.0, np.maximum(1 - power, 0))
    if np.count_nonzero(higher != 1):
        d, error = d * higher, error * higher
    scale = divisor * lower * higher
    quotient = d / scale
    return quotient, (_product_error(quotient, scale, d) + error) / scale


def _product_error(a: Array, b: Any, near: Array) -> Array:
    """Return near - a b, which is small and exact (Dekker, 1971)."""
    factor = a.dtype.type(2 ** ((np.finfo(a.dtype).nmant + 2) // 2) + 1)

    def halves(value: Any) -> _Pair:
        scaled = factor * value
        high = scaled - (scaled - value)
        return high, value - high

    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    return ((near - a_high * b_high) - a_high * b_low - a_low * b_high) - a_low * b_low


def _two_sum(a: Array, b: Array) -> _Pair:
    """Return a + b as its rounded value and the error of that (Knuth)."""
    high = a + b
    back = high - a
    error = high - back
    error = np.subtract(a, error, out=error)
    return high, np.add(error, np.subtract(b, back, out=back), out=back)


def _plus(a: _Pair, b: _Pair) -> _Pair:
    """Return the sum of two numbers that are each high + low."""
    high, low = _two_sum(a[0], b[0])
    return high, low + (a[1] + b[1])


def _rounded(pair: _Pair, dtype: Any = None) -> Array:
    """Return high + low in a dtype; of an infinite high there is no low."""
    high, low = pair
    return np.where(np.isfinite(high), high.astype(dtype or high.dtype) + low, high)


def _clipped(values: Array, low: float, high: float) -> Array:
    # numpy.clip imports Python code, which a finaliser cannot; so does numpy.all.
    return np.minimum(np.maximum(values, low), high)


def _are_within(values: Array, low: float, high: float) -> bool:
    if values.size == 1:
        return bool(low <= values.item() <= high)
    return bool(np.count_nonzero((low <= values) & (values <= high)) == values.size)


def _are_finite(values: Array) -> bool:
    if values.size == 1:
        return math.isfinite(values.item())
    return bool(np.count_nonzero(np.isfinite(values)) == values.size)


def _finite_or_0(values: Any) -> Any:
    return values if _are_finite(values) else np.where(np.isfinite(values), values, 0.0)


def _pieces(shape: tuple[int, ...], limit: int) -> Iterator[Index]:
    """Cut an array of `shape` into pieces of at most `limit` elements (but at least one)."""
    if not shape:
        yield (...,)
        return
    inner = math.prod(shape[1:])
    step = limit // inner
    if step:
        yield from ((slice(i, i + step),) for i in range(0, shape[0], step))
        return
    for i in range(shape[0]):
        for piece in _pieces(shape[1:], limit):
            yield (slice(i, i + 1), *piece)
