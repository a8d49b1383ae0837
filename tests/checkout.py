"""Puts the checkout on the path, for `benchmarks`: last, so that an installed fastsoftmax is found."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
