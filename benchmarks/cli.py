"""The command line: ``python -m benchmarks`` and ``python -m benchmarks accuracy``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .document import Document
    from .runner import Run

FALLBACK_STATUS = 3
INSTRUCTION_SETS = ("avx512", "avx2", "generic", "neon", "numpy")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure")
    parser.add_argument("--plot", metavar="DIR", type=Path, help="draw the plots (matplotlib)")
    parser.add_argument("--peers", help="comma-separated; default: all that are installed")
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, help="default: the best")
    parser.add_argument("--update-readme", action="store_true", help="rewrite README.md's tables")
    parser.add_argument("--allow-fallback", action="store_true", help="exit with 0 on the fallback")
    parser.add_argument("--quick", action="store_true", help="fewer cells and rounds: < 2 minutes")
    parser.add_argument("--companion", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(command=speed)
    accuracy_parser = parser.add_subparsers(metavar="accuracy").add_parser(
        "accuracy", help="ULP, |sum - 1| and reproducibility instead of speed"
    )
    # Given again so that they may follow the subcommand; SUPPRESS keeps what came before it.
    accuracy_parser.add_argument("--json", type=Path, default=argparse.SUPPRESS)
    accuracy_parser.add_argument("--plot", type=Path, default=argparse.SUPPRESS)
    accuracy_parser.add_argument("--peers", default=argparse.SUPPRESS)
    accuracy_parser.add_argument("--from-json", type=Path, default=argparse.SUPPRESS)
    for name in ("--quick", "--update-readme", "--allow-fallback"):
        accuracy_parser.add_argument(name, action="store_true", default=argparse.SUPPRESS)
    accuracy_parser.add_argument(
        "--instruction-set", choices=INSTRUCTION_SETS, default=argparse.SUPPRESS
    )
    add = accuracy_parser.add_argument_group(
        "search for the worst rows, and not these"
    ).add_argument
    add("--search", type=float, metavar="SECONDS", help="exit with 1 where a bound is exceeded")
    add("--dtypes", default="float32,float64,float16", help="comma-separated (%(default)s)")
    add("--seed", type=int, help="of the search's random rows")
    add("--keep", action="store_true", help="add the worst rows to benchmarks/worst_rows.json")
    accuracy_parser.set_defaults(command=accuracy)
    parser.add_argument("--cells", metavar="NAMES", help="only these cells or tags")
    parser.add_argument("--threads", type=int, default=1, help="of ours and of every peer")
    parser.add_argument("--list", action="store_true", help="show the cells and their reasons")
    parser.add_argument("--from-json", metavar="FILE", type=Path, help="report an earlier run")
    return parser


def _limit_threads(threads: int, instruction_set: str | None) -> None:
    """Hold libraries to their threads and instruction set; most read this when they start."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if instruction_set == "avx2":
        os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
    elif instruction_set == "generic":
        os.environ["ATEN_CPU_CAPABILITY"] = "default"


def _list_cells() -> int:
    for case in cases.CASES:
        mark = "quick" if case.quick else "full "
        print(f"{mark}  {case.name:26} {case.label:56} {case.reason}")
    return 0


def _measure(run: Run, chosen: list[cases.Case], title: str) -> list[dict[str, Any]]:
    from .progress import each

    return [run.cell(case) for case in each(chosen, title, lambda case: case.name)]


def _chosen_cases(options: argparse.Namespace) -> list[cases.Case]:
    from .machine import caches

    if options.cells == "beyond-cache":
        chosen = [cases.beyond_cache(max(caches().values(), default=0))]
    else:
        chosen = cases.select(quick=options.quick, pattern=options.cells)
    return cases.with_threads(chosen, options.threads)


def _run_cells(options: argparse.Namespace) -> Document:
    from threadpoolctl import threadpool_limits

    from . import peers, runner, subject, timing

    effort = timing.QUICK if options.quick else timing.FULL
    with threadpool_limits(options.threads):
        under_test = subject.Subject(options.instruction_set)
        run = runner.Run(under_test, peers.choose(options.peers, options.threads), effort)
        chosen = _chosen_cases(options)
        cells = _measure(run, [case for case in chosen if not case.lacks], "cells")
        command = shlex.join(["python", "-m", "benchmarks", *options.words])
        document = runner.document(
            run, cells, kind="speed", quick=options.quick, threads=options.threads, command=command
        )
        document["left_out"] = {case.name: case.lacks for case in chosen if case.lacks}
        if options.plot:
            sweeps = cases.latency_sweep(quick=options.quick)
            sweeps += cases.throughput_sweep(quick=options.quick)
            document["sweeps"] = _measure(run, sweeps, "plots")
    return document


def _add_companions(document: Document, options: argparse.Namespace) -> None:
    """Measure what needs another process; a quick run leaves out what takes minutes."""
    from . import companions

    document["package"] = companions.package()
    with_torch = "torch" in document["versions"]
    if with_torch and document["native"] and "avx2" in document["available"]:
        cells = "rows-1000,rows-1000-out,rows-1000-float64"
        document["avx2"] = companions.forced("avx2", "torch", cells, quick=options.quick)
    cells = "one-row-46,rows-1000,rows-1000-f64"
    document["numpy_backend"] = companions.forced("numpy", "scipy", cells, quick=options.quick)
    if not options.quick and options.cells is None:
        last_level = max(document["machine"]["caches"].values(), default=None)
        document["beyond_cache"] = companions.beyond_cache(last_level)
        document["two_threads"] = companions.two_threads(options.peers)


def speed(options: argparse.Namespace) -> Document:
    """Measure speed."""
    document = _run_cells(options)
    if not options.companion and options.threads == 1:
        _add_companions(document, options)
    return document


def accuracy(options: argparse.Namespace) -> Document:
    """Measure accuracy and reproducibility, or search for the worst rows."""
    from . import accuracy as module

    if options.search is not None:
        from . import search

        if options.update_readme or options.plot:
            raise cases.UsageError("a search has no plots, and nothing for the README")
        return search.run(
            options.instruction_set, options.peers, seconds=options.search, dtypes=options.dtypes,
            seed=options.seed, keep=options.keep, words=options.words,
        )  # fmt: skip
    return module.run(
        options.instruction_set, options.peers, quick=options.quick, words=options.words
    )


def _earlier(path: Path) -> Document:
    found: Document = json.loads(path.read_text())
    return found


def _publish(document: Document, options: argparse.Namespace) -> None:
    """Print, write and draw what was asked for."""
    from . import report

    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.companion:
        return
    console = report.make_console()
    if document["kind"] == "accuracy":
        from . import accuracy_report

        accuracy_report.print_report(console, document)
    elif document["kind"] == "search":
        from . import search_report

        search_report.print_report(console, document)
    else:
        report.print_report(console, document)
    if options.plot:
        from . import plots

        for path in plots.draw(document, options.plot):
            console.print(f"drew {path}")
    if options.update_readme:
        from . import readme

        readme.update(document)


def _verdict(document: Document) -> int:
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
    options = _parser().parse_args(words, argparse.Namespace(words=words))
    if options.list:
        return _list_cells()
    _limit_threads(options.threads, options.instruction_set)
    try:
        document = _earlier(options.from_json) if options.from_json else options.command(options)
        _publish(document, options)
    except cases.UsageError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"benchmarks: {error}; pip install 'fastsoftmax[bench]'", file=sys.stderr)
        return 2
    status = _verdict(document)
    if not document["native"] and not options.allow_fallback:
        return FALLBACK_STATUS
    return status
