"""Softmax and its family over NumPy arrays: right to a few ULP, the same bits everywhere, fast."""

from fastsoftmax._api import (
    log_softmax,
    log_softmax_backward,
    logsumexp,
    segment_log_softmax,
    segment_logsumexp,
    segment_softmax,
    softmax,
    softmax_backward,
    softmax_cross_entropy,
)
from fastsoftmax._backend import show_config
from fastsoftmax._interface import get_include
from fastsoftmax._workers import get_workers, set_workers

__version__ = "0.1.0"

__all__ = [
    "get_include",
    "get_workers",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "segment_log_softmax",
    "segment_logsumexp",
    "segment_softmax",
    "set_workers",
    "show_config",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
]
