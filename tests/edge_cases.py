"""The contract's tables of edge cases and dtypes, as data."""

import numpy as np

INF, NAN = np.inf, np.nan

# name, x, where, softmax, log_softmax, logsumexp
EDGE_CASES = [
    ("-inf among finite", [0, -INF, 0], None, [0.5, 0, 0.5], [-np.log(2), -INF, -np.log(2)], np.log(2)),
    ("one finite", [-INF, 3, -INF], None, [0, 1, 0], [-INF, 0, -INF], 3),
    ("all -inf", [-INF, -INF], None, [NAN, NAN], [NAN, NAN], -INF),
    ("nothing kept", [1, 2], [False, False], [0, 0], [-INF, -INF], -INF),
    ("only -inf kept", [-INF, 2], [True, False], [NAN, 0], [NAN, -INF], -INF),
    ("NaN masked", [0, NAN, 0], [True, False, True], [0.5, 0, 0.5], [-np.log(2), -INF, -np.log(2)], np.log(2)),
    ("inf masked", [0, INF, 0], [True, False, True], [0.5, 0, 0.5], [-np.log(2), -INF, -np.log(2)], np.log(2)),
    ("NaN kept", [0, NAN, 0], None, [NAN] * 3, [NAN] * 3, NAN),
    ("NaN kept, one masked", [0, NAN, 0], [True, True, False], [NAN, NAN, 0], [NAN, NAN, -INF], NAN),
    ("inf kept", [0, INF, 0], None, [NAN] * 3, [NAN] * 3, INF),
    ("inf kept, one masked", [0, INF, 0], [False, True, True], [0, NAN, NAN], [-INF, NAN, NAN], INF),
    ("inf twice", [INF, INF], None, [NAN] * 2, [NAN] * 2, INF),
    ("inf and -inf", [INF, -INF], None, [NAN] * 2, [NAN] * 2, INF),
    ("inf and NaN", [INF, NAN], None, [NAN] * 2, [NAN] * 2, NAN),
    ("NaN and -inf", [-INF, NAN], None, [NAN] * 2, [NAN] * 2, NAN),
    ("very large", [1000, 1000], None, [0.5, 0.5], [-np.log(2)] * 2, 1000 + np.log(2)),
    ("a mask of -1e9", [0, -1e9, 0], None, [0.5, 0, 0.5], [-np.log(2), -1e9 - np.log(2), -np.log(2)], np.log(2)),
    ("a mask of -1e30", [5, -1e30], None, [1, 0], [0, -1e30], 5),
    ("one element", [7], None, [1], [0], 7),
    ("one element, masked", [7], [False], [0], [-INF], -INF),
]  # fmt: skip

# name, x, b, where, logarithm of the sum's absolute value, its sign
WEIGHTED_CASES = [
    ("weights", [0, np.log(2), 0], [1, 2, 3], None, np.log(8), 1),
    ("a negative sum", [0, np.log(2)], [1, -2], None, np.log(3), -1),
    ("signs that cancel in part", [0, np.log(2)], [-1, 1], None, 0, 1),
    ("one element", [7], [-1], None, 7, -1),
    ("terms that cancel each other", [1, 1], [1, -1], None, -INF, 0),
    ("a term and its opposite among zeros", [1, 5, 1], [2, 0, -2], None, -INF, 0),
    ("nothing but zeros", [1, 2], [0, 0], None, -INF, 0),
    ("negative zeros too", [1, NAN], [-0.0, -0.0], None, -INF, 0),
    ("a 0 takes out a NaN", [0, NAN, 0], [1, 0, 1], None, np.log(2), 1),
    ("a 0 takes out an inf", [INF, 0, 0], [0, 1, 1], None, np.log(2), 1),
    ("a 0 takes out a -inf", [-INF, 0, 0], [0, 1, -2], None, 0, -1),
    ("a 0 takes out what is largest", [1e4, 0], [0, 3], None, np.log(3), 1),
    ("all -inf", [-INF, -INF], [1, -2], None, -INF, 0),
    ("-inf among finite", [-INF, 0], [-5, 1], None, 0, 1),
    ("a NaN", [NAN, 0], [1, 1], None, NAN, NAN),
    ("a NaN of negative weight", [0, NAN, -INF], [1, -1, 1], None, NAN, NAN),
    ("inf", [INF, 0, 5], [0.5, -1, -1], None, INF, 1),
    ("inf of negative weight", [INF, 0], [-1, 1], None, INF, -1),
    ("inf twice, of one sign", [INF, INF, -INF], [-1, -3, 1], None, INF, -1),
    ("inf of both signs", [INF, INF], [1, -1], None, NAN, NAN),
    ("inf and NaN", [INF, NAN], [1, 1], None, NAN, NAN),
    ("nothing kept", [1, 2], [1, -1], [False, False], -INF, 0),
    ("kept by one, not by the other", [1, NAN, INF], [0, 1, -1], [True, False, False], -INF, 0),
    ("kept by both", [NAN, 3, 5], [0, -1, 1], [True, True, False], 3, -1),
    ("an inf masked", [INF, 2], [1, 1], [False, True], 2, 1),
    ("very large", [1000, 1000], [1, 2], None, 1000 + np.log(3), 1),
    ("very small", [-1000, -1000], [-1, -2], None, -1000 + np.log(3), -1),
    ("all weights 1, near 0", [-40, np.log1p(-np.exp(-40))], [1, 1], None, 0, 1),
]  # fmt: skip

ACCEPTED_DTYPES = [
    *((np.dtype(name), np.dtype(name)) for name in ("float16", "float32", "float64", "longdouble")),
    *((np.dtype(code), np.dtype(np.float64)) for code in "?bBhHiIlLqQ"),
]
"""Of the input, and of the result."""

REFUSED = {
    "complex64": np.ones(3, np.complex64),
    "complex128": [1j],
    "object": np.array([1, None], dtype=object),
    "<U1": ["a"],
    "|S1": [b"a"],
    "datetime64": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "timedelta64": np.array([1], dtype="timedelta64[s]"),
    "|V8": np.zeros(2, dtype="V8"),
    "[('a', '<f4')]": np.zeros(2, dtype=[("a", "f4")]),
}
"""What a TypeError's message must name, and an input."""

try:
    import ml_dtypes
except ImportError:
    OF_ML_DTYPES = ()
else:
    OF_ML_DTYPES = tuple(
        np.dtype(kind)
        for name, kind in vars(ml_dtypes).items()
        if isinstance(kind, type) and issubclass(kind, np.generic) and name != "bfloat16"
    )
REFUSED_DTYPES = (
    *OF_ML_DTYPES,
    *(np.dtype(code) for code in ("c8", "c16", "G", "O", "U1", "S1", "M8[s]", "m8[s]", "V4")),
    np.dtype([("a", "f4")]),
    *([np.dtypes.StringDType()] if hasattr(np.dtypes, "StringDType") else []),
)
"""Those that no operand may have: 8 bits and less among them, one of which is of kind "f"."""

NOT_A_NUMBER = {
    "float16": 0x7E00,
    "bfloat16": 0x7FC0,
    "float32": 0x7FC00000,
    "float64": 0x7FF8000000000000,
}
"""The one canonical quiet NaN, as bits."""
