from collections.abc import Callable
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])

def available() -> tuple[str, ...]: ...
def compiled() -> tuple[str, ...]: ...
def compiler() -> str: ...

@final
class NativeBackend:
    name: str
    def __init__(self, name: str) -> None: ...
    def softmax(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        k: int,
        where: NDArray[np.bool_] | None,
        temperature: float,
        threads: int,
    ) -> None: ...
    def log_softmax(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        k: int,
        where: NDArray[np.bool_] | None,
        temperature: float,
        threads: int,
    ) -> None: ...
    def logsumexp(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        k: int,
        where: NDArray[np.bool_] | None,
        threads: int,
    ) -> None: ...
    def softmax_backward(
        self,
        grad_output: NDArray[Any],
        output: NDArray[Any],
        out: NDArray[Any],
        k: int,
        threads: int,
    ) -> None: ...
    def log_softmax_backward(
        self,
        grad_output: NDArray[Any],
        output: NDArray[Any],
        out: NDArray[Any],
        k: int,
        threads: int,
    ) -> None: ...
    def softmax_cross_entropy(
        self,
        logits: NDArray[Any],
        labels: NDArray[Any],
        loss: NDArray[Any],
        grad: NDArray[Any] | None,
        label_smoothing: float,
        threads: int,
    ) -> None: ...
    def segment_softmax(
        self, data: NDArray[Any], indptr: NDArray[np.int64], out: NDArray[Any], threads: int
    ) -> None: ...
    def fast_lane(
        self, name: str, general: _Function, threads_for: Callable[[int | None, int], int]
    ) -> _Function: ...
