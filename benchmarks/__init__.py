"""The benchmark suite: ``python -m benchmarks`` and ``python -m benchmarks accuracy``.

``README.md`` in this folder says how the figures are taken and how to read them.
"""
