"""The command line: ``python -m benchmarks`` and ``python -m benchmarks accuracy``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import cases, companions, peers, runner, subject, timing
from .document import Document
from .machine import caches

FALLBACK_STATUS = 3
INSTRUCTION_SETS = ("avx512", "avx2", "generic", "neon", "numpy")
DEFAULTS = {
    **dict.fromkeys(("json", "plot", "peers", "instruction_set", "from_json")),
    **dict.fromkeys(("update_readme", "allow_fallback", "quick"), False),
}
"""Of the options that both commands have."""


def _parser() -> argparse.ArgumentParser:
    # Defaults come from `DEFAULTS`, so that an option may stand before the subcommand or after it.
    both = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    add = both.add_argument
    add("--json", metavar="FILE", type=Path, help="write every figure")
    add("--plot", metavar="DIR", type=Path, help="draw the plots (matplotlib)")
    add("--peers", help="comma-separated; default: all that are installed")
    add("--instruction-set", choices=INSTRUCTION_SETS, help="default: the best")
    add("--from-json", metavar="FILE", type=Path, help="report an earlier run")
    add("--update-readme", action="store_true", help="rewrite the tables in the documentation")
    add("--allow-fallback", action="store_true", help="exit with 0 on the fallback")
    add("--quick", action="store_true", help="fewer cells and rounds: < 2 minutes")
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, parents=[both])
    add = parser.add_argument
    add("--cells", metavar="NAMES", help="only these cells or tags")
    add("--threads", type=int, default=1, help="of ours and of every peer")
    add("--list", action="store_true", help="show the cells and their reasons")
    add("--targets", action="store_true", help="show which of the project's targets are met")
    add("--companion", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(command=speed)
    accuracy_parser = parser.add_subparsers(metavar="accuracy").add_parser(
        "accuracy", help="ULP, |sum - 1| and reproducibility instead of speed", parents=[both]
    )
    title = "search for the worst rows, and not these"
    add = accuracy_parser.add_argument_group(title).add_argument
    add("--search", type=float, metavar="SECONDS", help="exit with 1 where a bound is exceeded")
    add("--dtypes", default="float32,float64,float16", help="comma-separated (%(default)s)")
    add("--seed", type=int, help="of the search's random rows")
    add("--keep", action="store_true", help="add the worst rows to benchmarks/worst_rows.json")
    accuracy_parser.set_defaults(command=accuracy)
    return parser


def _limit_threads(threads: int, instruction_set: str | None) -> None:
    """Hold libraries to their threads and instruction set; most read this when they start."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    os.environ |= dict.fromkeys(names, str(threads))
    if level := {"avx2": "avx2", "generic": "default"}.get(instruction_set or ""):
        os.environ["ATEN_CPU_CAPABILITY"] = level


def _list_cells() -> None:
    for title, members in cases.GROUPS.items():
        print(f"\n{title}")
        for case in members:
            print(f"  {case.label}\n      {case.name}{' *' * case.quick}: {case.reason}")
    print("\n* also in the quick run")


def _measure(run: runner.Run, chosen: list[cases.Case], title: str) -> list[dict[str, Any]]:
    from .progress import each

    return [run.cell(case) for case in each(chosen, title, lambda case: case.label)]


def _chosen_cases(options: argparse.Namespace) -> list[cases.Case]:
    if options.cells == "beyond-cache":
        chosen = [cases.beyond_cache(max(caches().values(), default=0))]
    else:
        chosen = cases.select(quick=options.quick, pattern=options.cells)
    return cases.with_threads(chosen, options.threads)


def _run_cells(options: argparse.Namespace) -> Document:
    from threadpoolctl import threadpool_limits

    effort = timing.QUICK if options.quick else timing.FULL
    with threadpool_limits(options.threads):
        under_test = subject.Subject(options.instruction_set)
        run = runner.Run(under_test, peers.choose(options.peers, options.threads), effort)
        chosen = _chosen_cases(options)
        cells = _measure(run, [case for case in chosen if not case.lacks], "cells")
        document = runner.document(run, "speed", options, cells)
        document["left_out"] = {case.name: case.lacks for case in chosen if case.lacks}
        if options.plot:
            sweeps = cases.latency_sweep(quick=options.quick)
            sweeps += cases.throughput_sweep(quick=options.quick)
            document["sweeps"] = _measure(run, sweeps, "plots")
    return document


def speed(options: argparse.Namespace) -> Document:
    """Measure speed."""
    document = _run_cells(options)
    is_shown = options.targets or options.json or not options.quick
    if is_shown and not options.companion and options.threads == 1:
        companions.add(document, options)
    return document


def accuracy(options: argparse.Namespace) -> Document:
    """Measure accuracy and reproducibility, or search for the worst rows."""
    from . import accuracy as module

    if options.search is not None:
        from . import search

        if options.update_readme or options.plot:
            raise cases.UsageError("a search has no plots, and nothing for the README")
        return search.run(options)
    return module.run(options)


def _publish(document: Document, options: argparse.Namespace) -> None:
    """Print, write and draw what was asked for."""
    from . import report

    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.companion:
        return
    console = report.make_console()
    if document["kind"] in ("accuracy", "search"):
        from . import accuracy_report

        accuracy_report.print_report(console, document)
    else:
        report.print_report(console, document, with_targets=options.targets)
    if options.plot:
        from . import plots

        for path in plots.draw(document, options.plot):
            console.print(f"drew {path}")
    if options.update_readme:
        from . import readme

        readme.update(document)


def _search_status(document: Document) -> int:
    """Return 1 if a search has found errors above a bound, and say which."""
    found = [entry for entry in document.get("search", ()) if "max_ulp" in entry]
    above = [entry for entry in found if entry["max_ulp"] > entry["bound"]]
    for entry in above:
        print(
            f"benchmarks: {entry['title']} {entry['dtype']}: "
            f"{entry['max_ulp']:.3f} ULP, above the bound of {entry['bound']:.4g}",
            file=sys.stderr,
        )
    return 1 if above else 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    options = _parser().parse_args(words, argparse.Namespace(words=words, **DEFAULTS))
    if options.list:
        _list_cells()
        return 0
    _limit_threads(options.threads, options.instruction_set)
    try:
        if options.plot and find_spec("matplotlib") is None:  # before minutes of measuring
            raise cases.UsageError("--plot needs matplotlib: pip install matplotlib")
        if options.from_json:
            document = json.loads(options.from_json.read_text())
        else:
            document = options.command(options)
        _publish(document, options)
    except cases.UsageError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"benchmarks: {error}; pip install -e '.[bench]' brings it", file=sys.stderr)
        return 2
    status = _search_status(document)
    return status if document["native"] or options.allow_fallback else FALLBACK_STATUS
