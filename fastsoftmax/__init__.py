"""Softmax and its family over NumPy arrays: right to a few ULP, the same bits everywhere, fast."""

from fastsoftmax import _api, _backend
from fastsoftmax._backend import show_config
from fastsoftmax._workers import get_workers, set_workers

__version__ = "0.1.0"

__all__ = [
    "get_workers",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "segment_softmax",
    "set_workers",
    "show_config",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
]

_functions = _api.Functions(_backend.default())
softmax = _functions.softmax
log_softmax = _functions.log_softmax
logsumexp = _functions.logsumexp
softmax_backward = _functions.softmax_backward
log_softmax_backward = _functions.log_softmax_backward
softmax_cross_entropy = _functions.softmax_cross_entropy
segment_softmax = _functions.segment_softmax
