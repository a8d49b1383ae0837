"""Importing this puts the checkout on the path, for `benchmarks`.

It comes last there, so that an installed fastsoftmax is found first.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
