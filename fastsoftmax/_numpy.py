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
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from fastsoftmax import _rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from numpy.typing import NDArray

    from fastsoftmax._rules import Plan

    Array: TypeAlias = NDArray[Any]
    Index: TypeAlias = tuple[slice, ...]

_Function = TypeVar("_Function", bound="Callable[..., Any]")

BLOCK = 1 << 14  # elements: the dozen float64 temporaries of a block then fit a 2 MiB L2


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
            for tile, part in rows.parts():
                _store(out, tile, part.log_softmax(rows.total), where, -np.inf)

        _for_blocks(block, c, c.x, c.out, c.where)

    def logsumexp(self, c: _Call) -> None:
        """Write log(sum(exp(x)))."""

        def block(x: Array, out: Array, where: Array | None) -> None:
            rows = _Rows(x, c.k, where, 1.0)
            answer = rows.largest + np.log1p(rows.total.rest)
            # Of a row without an answer the largest element says which: -inf, inf or NaN.
            _store(out, (), np.where(np.isnan(rows.shift), rows.largest, answer))

        _for_blocks(block, c, c.x, c.out, c.where)

    def softmax_backward(self, c: _Call) -> None:
        """Write y (g - sum(g y))."""

        def block(g: Array, y: Array, out: Array) -> None:
            tiles = _tiles(g, c.k)
            inner = sum(_add_exactly(_load(g, tile, c.k) * _load(y, tile, c.k)) for tile in tiles)
            for tile in tiles:
                _store(out, tile, _load(y, tile, c.k) * (_load(g, tile, c.k) - inner))

        _for_blocks(block, c, c.x, c.y, c.out)

    def log_softmax_backward(self, c: _Call) -> None:
        """Write g - exp(y) sum(g), over what is not masked."""

        def block(g: Array, y: Array, out: Array, where: Array | None) -> None:
            tiles = _tiles(g, c.k)
            total = sum(_add_exactly(_load(g, tile, c.k, where, 0.0)) for tile in tiles)
            for tile in tiles:
                p = np.exp(_load(y, tile, c.k, where))
                _store(out, tile, _load(g, tile, c.k, where, 0.0) - p * total, where, 0.0)

        _for_blocks(block, c, c.x, c.y, c.out, c.where)

    def softmax_cross_entropy(self, c: _Call) -> None:
        """Write -sum(t log_softmax(x)) and its gradient sum(t) softmax(x) - t."""
        assert c.y is not None
        by_index = c.y.dtype.kind in "iu"
        n = c.x.shape[-1]
        labels = c.y.astype(np.intp)[..., np.newaxis] if by_index else c.y

        def shares(labels: Array, tile: Index) -> Array:
            if not by_index:
                return _load(labels, tile, 1)
            hot = labels.reshape(-1, 1) == np.arange(n)[tile[-1] if tile else slice(None)]
            return hot.astype(_wide(c.x))

        smoothing = _wide(c.x).type(c.smoothing)

        def smoothed(share: Array, classes: int) -> Array:
            """Smooth the share of one class, or the sum over several."""
            if smoothing == 0:
                return share
            return share * (1 - smoothing) + smoothing / n * classes

        def block(x: Array, t: Array, loss: Array, grad: Array | None) -> None:
            rows = _Rows(x, 1, None, 1.0)
            losses: Any = 0.0
            mass: Any = 0.0
            for tile, part in rows.parts():
                share = shares(t, tile)
                target = smoothed(share, 1)
                # A class that is not asked for contributes nothing, impossible (-inf) or not.
                terms = np.where(target == 0, 0.0, target * part.log_softmax(rows.total))
                losses = losses - _add(terms)
                mass = mass + _add(share)
            _store(loss, (), np.where(np.isnan(rows.shift), np.nan, losses))
            if grad is None:
                return
            mass = 1.0 if by_index else smoothed(mass, n)
            for tile, part in rows.parts():
                target = smoothed(shares(t, tile), 1)
                gradient = part.softmax(rows.total) * mass - target
                if by_index and smoothing == 0:  # 1 - p without its cancellation
                    gradient = np.where(target == 1, -part.complement(rows.total), gradient)
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
        return np.max(values, axis=-1, keepdims=True)

    def add(self, values: Array) -> Array:
        return np.sum(values, axis=-1, keepdims=True)

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

    @classmethod
    def of(cls, below: _Sum) -> _Total:
        rest, rest_low = _two_sum(below.high, below.peaks - 1)
        rest, rest_low = _two_sum(rest, rest_low + below.low)
        high, low = _two_sum(np.ones_like(rest), rest)
        high, low = _two_sum(high, low + rest_low)
        return cls(high, low, rest)


class _Part:
    """Elements of whole rows, or a tile of long ones: d = (x - shift) / T, its error, its exp."""

    def __init__(
        self, grid: _Even | _Ragged, x: Array, shift: Array, temperature: float, *, is_narrow: bool
    ) -> None:
        self.grid = grid
        self.d, self.error = _difference(x, grid.spread(shift), temperature, exact=not is_narrow)
        self.w = np.exp(self.d)

    def sum(self) -> _Sum:
        is_peak = self.d == 0
        below = np.where(is_peak, 0.0, self.w)
        # At `cut` or above, the unit in the last place is 1 of the bits that all heads share.
        _, exponent = np.frexp(self.grid.largest(below))
        cut = np.ldexp(np.ones_like(below, shape=()), exponent + self.grid.longest.bit_length())
        cut = self.grid.spread(cut)
        heads = (below + cut) - cut
        tails = below - heads
        if self.error is not None:
            tails += below * self.error
        peaks = self.grid.add(is_peak.astype(self.d.dtype))
        return _Sum(self.grid.add(heads), self.grid.add(tails), peaks)

    def softmax(self, total: _Total) -> Array:
        spread = self.grid.spread
        y = self.w / spread(total.high)
        if self.error is None:
            return y
        return y + y * (self.error - spread(total.low / total.high))

    def log_softmax(self, total: _Total) -> Array:
        log_sum = self.grid.spread(np.log1p(total.rest))
        if self.error is None:
            return self.d - log_sum
        return self.d - (log_sum - self.error)

    def complement(self, total: _Total) -> Array:
        """1 - softmax, as (rest + (1 - w)) / sum: no term is negative."""
        spread = self.grid.spread
        return (spread(total.rest) - np.expm1(self.d)) / spread(total.high)


class _Rows:
    """A block of rows of one length, whose parts may be gone through more than once."""

    def __init__(self, x: Array, k: int, where: Array | None, temperature: float) -> None:
        self.x, self.k, self.where, self.temperature = x, k, where, temperature
        self.tiles = _tiles(x, k)
        self.only: _Part | None = None
        loaded = [_load(x, tile, k, where) for tile in self.tiles[:1]]
        self.largest = np.max(loaded[0], axis=-1, keepdims=True)
        for tile in self.tiles[1:]:
            largest = np.max(_load(x, tile, k, where), axis=-1, keepdims=True)
            self.largest = np.maximum(self.largest, largest)
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
    error = (x - (d - back)) - (shift + back)
    if temperature != 1.0:
        d, error = np.ldexp(d, -power), np.ldexp(error, -power)
        quotient = d / scale
        error = (_product_error(quotient, scale, d) + error) / scale
        d = quotient
    # inf - inf: an element that is -inf, or beyond what the dtype can say.
    return d, np.where(np.isfinite(error), error, 0.0)


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


def _add(values: Array) -> Array:
    return np.sum(values, axis=-1, keepdims=True)


def _add_exactly(values: Array) -> Array:
    """Return the sum over a tile, rounded once or twice: see (d)."""
    _, exponent = np.frexp(np.max(np.abs(values), axis=-1, keepdims=True))
    exponent = np.minimum(
        exponent + values.shape[-1].bit_length(), np.finfo(values.dtype).maxexp - 1
    )
    cut = np.ldexp(np.ones((), values.dtype), exponent)
    heads = (values + cut) - cut
    return _add(heads) + _add(np.where(np.isfinite(heads), values - heads, 0.0))


def _at(array: Array, tile: Index) -> Array:
    index: Any = (..., *tile)
    return array[index]


def _load(
    x: Array, tile: Index, k: int, where: Array | None = None, masked: float = -np.inf
) -> Array:
    """Return a (rows, n) copy in the dtype that is computed in, `masked` where masked."""
    x = _at(x, tile)
    values = np.array(x, dtype=_wide(x), order="C")
    if where is not None:
        np.copyto(values, masked, where=~_at(where, tile))
    return values.reshape(-1, math.prod(x.shape[-k:]))


def _store(
    out: Array, tile: Index, values: Array, where: Array | None = None, masked: float = 0.0
) -> None:
    """Round values into a tile of out: `masked` where masked, one bit pattern for every NaN."""
    out = _at(out, tile)
    np.copyto(values, np.nan, where=np.isnan(values))
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
