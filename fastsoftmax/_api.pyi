# What type checkers see of `_api.py`: the result of each form of call.
#
# An array keeps its dtype, and its shape where the result has as many axes; integers, bool and
# lists of numbers give float64. Where the number of axes decides between a scalar and an array, and
# is not known, the result is Any, as in NumPy's own stubs. ml_dtypes declares bfloat16 as
# numpy.generic, which complex numbers are too: annotate such arrays as NDArray[Any].

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal, Never, Protocol, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _backend

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_DType_co = TypeVar("_DType_co", bound=np.dtype[Any], covariant=True)
_Shape = TypeVar("_Shape", bound=tuple[int, ...])
_Float = TypeVar("_Float", bound=np.floating[Any])
_Out = TypeVar("_Out", bound=NDArray[np.floating[Any]])

# An array, a scalar, or what NumPy makes one of.
class _HasArray(Protocol[_DType_co]):
    def __array__(self) -> np.ndarray[Any, _DType_co]: ...

# A sequence, or one of sequences: no array, which has no `index`, and no text.
class _Deeper(Protocol[_T_co]):
    def __getitem__(self, index: int, /) -> _T_co | _Deeper[_T_co]: ...
    def __contains__(self, value: object, /) -> bool: ...
    def index(self, value: Any, /) -> int: ...

# Spelled out for three levels, as mypy takes any list literal for a recursive protocol.
_Nested: TypeAlias = Sequence[_T | Sequence[_T | Sequence[_T | _Deeper[_T]]]]
_Integer: TypeAlias = np.integer[Any] | np.bool_
_Real: TypeAlias = np.floating[Any] | _Integer
_Number: TypeAlias = float | _Real  # float stands for int and bool too
_HasReals: TypeAlias = _HasArray[np.dtype[_Real]]
_Reals: TypeAlias = float | _HasReals | _Nested[float | _HasReals]
_Arrays: TypeAlias = _HasReals | _Nested[float | _HasReals]
_HasIntegers: TypeAlias = _HasArray[np.dtype[np.integer[Any]]]
_Integers: TypeAlias = _HasIntegers | _Nested[int | _HasIntegers]
_HasBools: TypeAlias = _HasArray[np.dtype[np.bool_]]
_Mask: TypeAlias = bool | _HasBools | _Nested[bool | _HasBools] | None

_Floats: TypeAlias = np.ndarray[_Shape, np.dtype[_Float]]
_ToFloat64: TypeAlias = np.ndarray[Any, np.dtype[_Integer]] | _Nested[float]
_AnyShape: TypeAlias = tuple[Never]  # an unknown one fits it, no other
_Row: TypeAlias = tuple[int]
_Rows: TypeAlias = tuple[int, int]

_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_Index: TypeAlias = SupportsIndex | None
_Bool: TypeAlias = bool | np.bool_
_False: TypeAlias = Literal[False]
_True: TypeAlias = Literal[True]
_ToDType: TypeAlias = type[_Float] | np.dtype[_Float]
_AnyDType: TypeAlias = str | _ToDType[np.floating[Any]] | type[float] | None
_Pair: TypeAlias = tuple[NDArray[Any] | None, NDArray[Any] | None]

# fmt: off
@overload
def softmax(
    x: _Reals, axis: _Axis = -1, *, where: _Mask = None,
    out: _Out, dtype: _AnyDType = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> _Out: ...
@overload
def softmax(
    x: _Floats[_Shape, _Float], axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def softmax(
    x: _Float, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> _Float: ...
@overload
def softmax(
    x: _ToFloat64, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def softmax(
    x: float | _Integer, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> np.float64: ...
@overload
def softmax(
    x: NDArray[_Real] | _Nested[float], axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: _ToDType[_Float], temperature: _Reals = 1.0, workers: _Index = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: _Reals, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: _AnyDType = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> Any: ...

@overload
def log_softmax(
    x: _Reals, axis: _Axis = -1, *, where: _Mask = None,
    out: _Out, dtype: _AnyDType = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> _Out: ...
@overload
def log_softmax(
    x: _Floats[_Shape, _Float], axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def log_softmax(
    x: _Float, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> _Float: ...
@overload
def log_softmax(
    x: _ToFloat64, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def log_softmax(
    x: float | _Integer, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: None = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> np.float64: ...
@overload
def log_softmax(
    x: NDArray[_Real] | _Nested[float], axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: _ToDType[_Float], temperature: _Reals = 1.0, workers: _Index = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: _Reals, axis: _Axis = -1, *, where: _Mask = None,
    out: None = None, dtype: _AnyDType = None, temperature: _Reals = 1.0, workers: _Index = None,
) -> Any: ...

@overload
def logsumexp(
    x: _Reals, axis: _Axis = -1, *, b: _Reals | None = None, where: _Mask = None,
    keepdims: _Bool = False, return_sign: _True, out: NDArray[Any] | None = None,
    dtype: _AnyDType = None, workers: _Index = None,
) -> tuple[Any, Any]: ...
@overload
def logsumexp(
    x: _Reals, axis: _Axis = -1, *, b: _Reals | None = None, where: _Mask = None,
    keepdims: _Bool = False, return_sign: _False = False, out: _Out,
    dtype: _AnyDType = None, workers: _Index = None,
) -> _Out: ...
@overload
def logsumexp(
    x: _Floats[_Shape, _Float], axis: _Axis = -1, *, b: None = None, where: _Mask = None,
    keepdims: _True, return_sign: _False = False, out: None = None,
    dtype: None = None, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def logsumexp(
    x: _ToFloat64, axis: _Axis = -1, *, b: None = None, where: _Mask = None,
    keepdims: _True, return_sign: _False = False, out: None = None,
    dtype: None = None, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def logsumexp(
    x: NDArray[_Float] | _Float, axis: None, *, b: None = None, where: _Mask = None,
    keepdims: _False = False, return_sign: _False = False, out: None = None,
    dtype: None = None, workers: _Index = None,
) -> _Float: ...
@overload
def logsumexp(
    x: _ToFloat64 | float | _Integer, axis: None, *, b: None = None, where: _Mask = None,
    keepdims: _False = False, return_sign: _False = False, out: None = None,
    dtype: None = None, workers: _Index = None,
) -> np.float64: ...
@overload
def logsumexp(
    x: _Floats[_AnyShape, Any], axis: _Axis = -1, *, b: _Reals | None = None, where: _Mask = None,
    keepdims: _Bool = False, return_sign: _Bool = False, out: None = None,
    dtype: _AnyDType = None, workers: _Index = None,
) -> Any: ...
@overload
def logsumexp(
    x: _Floats[_Row, _Float] | _Float, axis: SupportsIndex = -1, *, b: None = None,
    where: _Mask = None, keepdims: _False = False, return_sign: _False = False, out: None = None,
    dtype: None = None, workers: _Index = None,
) -> _Float: ...
@overload
def logsumexp(
    x: _Floats[_Rows, _Float], axis: SupportsIndex = -1, *, b: None = None, where: _Mask = None,
    keepdims: _False = False, return_sign: _False = False, out: None = None,
    dtype: None = None, workers: _Index = None,
) -> _Floats[_Row, _Float]: ...
@overload
def logsumexp(
    x: _Reals, axis: _Axis = -1, *, b: _Reals | None = None, where: _Mask = None,
    keepdims: _Bool = False, return_sign: _Bool = False, out: NDArray[Any] | None = None,
    dtype: _AnyDType = None, workers: _Index = None,
) -> Any: ...

@overload
def softmax_backward(
    grad_output: _Reals, output: _Reals, axis: _Axis = -1, *,
    out: _Out, workers: _Index = None,
) -> _Out: ...
@overload
def softmax_backward(
    grad_output: _Floats[_Shape, _Float], output: _Floats[_Shape, _Float], axis: _Axis = -1, *,
    out: None = None, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def softmax_backward(
    grad_output: _ToFloat64, output: _ToFloat64, axis: _Axis = -1, *,
    out: None = None, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def softmax_backward(
    grad_output: _Reals, output: _Reals, axis: _Axis = -1, *,
    out: None = None, workers: _Index = None,
) -> Any: ...

@overload
def log_softmax_backward(
    grad_output: _Reals, output: _Reals, axis: _Axis = -1, *,
    where: _Mask = None, out: _Out, workers: _Index = None,
) -> _Out: ...
@overload
def log_softmax_backward(
    grad_output: _Floats[_Shape, _Float], output: _Floats[_Shape, _Float], axis: _Axis = -1, *,
    where: _Mask = None, out: None = None, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def log_softmax_backward(
    grad_output: _ToFloat64, output: _ToFloat64, axis: _Axis = -1, *,
    where: _Mask = None, out: None = None, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def log_softmax_backward(
    grad_output: _Reals, output: _Reals, axis: _Axis = -1, *,
    where: _Mask = None, out: None = None, workers: _Index = None,
) -> Any: ...

@overload
def softmax_cross_entropy(
    logits: _Arrays, labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _False = False,
    out: _Out, dtype: _AnyDType = None, workers: _Index = None,
) -> _Out: ...
@overload
def softmax_cross_entropy(
    logits: _Floats[_AnyShape, _Float], labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _True,
    out: None = None, dtype: None = None, workers: _Index = None,
) -> tuple[Any, NDArray[_Float]]: ...
@overload
def softmax_cross_entropy(
    logits: _Floats[_Rows, _Float], labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _True,
    out: None = None, dtype: None = None, workers: _Index = None,
) -> tuple[_Floats[_Row, _Float], _Floats[_Rows, _Float]]: ...
@overload
def softmax_cross_entropy(
    logits: _Floats[_Shape, _Float], labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _True,
    out: None = None, dtype: None = None, workers: _Index = None,
) -> tuple[Any, _Floats[_Shape, _Float]]: ...
@overload
def softmax_cross_entropy(
    logits: _ToFloat64, labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _True,
    out: None = None, dtype: None = None, workers: _Index = None,
) -> tuple[Any, NDArray[np.float64]]: ...
@overload
def softmax_cross_entropy(
    logits: _Arrays, labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _True,
    out: _Pair | NDArray[Any] | None = None, dtype: _AnyDType = None, workers: _Index = None,
) -> tuple[Any, Any]: ...
@overload
def softmax_cross_entropy(
    logits: _Floats[_AnyShape, Any], labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _False = False,
    out: None = None, dtype: _AnyDType = None, workers: _Index = None,
) -> Any: ...
@overload
def softmax_cross_entropy(
    logits: _Floats[_Rows, _Float], labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _False = False,
    out: None = None, dtype: None = None, workers: _Index = None,
) -> _Floats[_Row, _Float]: ...
@overload
def softmax_cross_entropy(
    logits: _Arrays, labels: _Reals, axis: SupportsIndex = -1, *,
    where: _Mask = None, sample_weight: _Reals | None = None, ignore_index: _Index = None,
    label_smoothing: _Number = 0.0, temperature: _Reals = 1.0, return_grad: _Bool = False,
    out: _Pair | NDArray[Any] | None = None, dtype: _AnyDType = None, workers: _Index = None,
) -> Any: ...

@overload
def segment_softmax(
    data: _Arrays, indptr: _Integers, *,
    out: _Out, temperature: _Number = 1.0, workers: _Index = None,
) -> _Out: ...
@overload
def segment_softmax(
    data: _Floats[_Shape, _Float], indptr: _Integers, *,
    out: None = None, temperature: _Number = 1.0, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def segment_softmax(
    data: _ToFloat64, indptr: _Integers, *,
    out: None = None, temperature: _Number = 1.0, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def segment_softmax(
    data: _Arrays, indptr: _Integers, *,
    out: None = None, temperature: _Number = 1.0, workers: _Index = None,
) -> NDArray[Any]: ...

@overload
def segment_log_softmax(
    data: _Arrays, indptr: _Integers, *,
    out: _Out, temperature: _Number = 1.0, workers: _Index = None,
) -> _Out: ...
@overload
def segment_log_softmax(
    data: _Floats[_Shape, _Float], indptr: _Integers, *,
    out: None = None, temperature: _Number = 1.0, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def segment_log_softmax(
    data: _ToFloat64, indptr: _Integers, *,
    out: None = None, temperature: _Number = 1.0, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def segment_log_softmax(
    data: _Arrays, indptr: _Integers, *,
    out: None = None, temperature: _Number = 1.0, workers: _Index = None,
) -> NDArray[Any]: ...

@overload
def segment_logsumexp(
    data: _Arrays, indptr: _Integers, *,
    out: _Out, workers: _Index = None,
) -> _Out: ...
@overload
def segment_logsumexp(
    data: _Floats[_Shape, _Float], indptr: _Integers, *,
    out: None = None, workers: _Index = None,
) -> _Floats[_Shape, _Float]: ...
@overload
def segment_logsumexp(
    data: _ToFloat64, indptr: _Integers, *,
    out: None = None, workers: _Index = None,
) -> NDArray[np.float64]: ...
@overload
def segment_logsumexp(
    data: _Arrays, indptr: _Integers, *,
    out: None = None, workers: _Index = None,
) -> NDArray[Any]: ...

def over(backend: _backend.Backend, *, by_rules: bool = False) -> SimpleNamespace: ...
