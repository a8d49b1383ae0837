"""The tables of accuracy, reproducibility and the worst rows of a search, on the terminal."""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from .accuracy import worst
from .computations import BY_TITLE
from .document import Document, ulp
from .report import fallback_banner, heading, table_of

Entry = dict[str, Any]


def libraries(entries: list[Entry]) -> list[str]:
    """Return the libraries of a table, in order of appearance."""
    return list(dict.fromkeys(entry["library"] for entry in entries))


def groups(document: Document) -> dict[tuple[str, str], list[Entry]]:
    """Return the entries by function and dtype."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in document["accuracy"]:
        found.setdefault((entry["function"], entry["dtype"]), []).append(entry)
    return found


def percent(value: float | None) -> str:
    """Return a share of rows for a table."""
    return "–" if value is None else f"{100 * value:.0f}%" if value == 0 or value > 0.005 else "<1%"


Lines = tuple[list[str], list[list[str]]]
"""Headings and rows of a table, for the terminal and for the documentation."""


def worst_errors(document: Document) -> Lines:
    """Return the worst over the families of rows, by function, dtype and library."""
    names = libraries(document["accuracy"])
    on_worst: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in document.get("on_worst_rows", ()):  # documents before the search have none
        on_worst.setdefault((entry["function"], entry["dtype"]), {})[entry["library"]] = entry
    rows = []
    for key, entries in groups(document).items():
        found = {n: worst([e for e in entries if e["library"] == n]) for n in libraries(entries)}
        there = on_worst.get(key, {})
        lines: list[tuple[str, dict[str, Entry], str, Callable[[Any], str]]] = [
            ("max ULP", found, "max_ulp", ulp),
            ("… on fastsoftmax's worst rows", there, "max_ulp", ulp),
            ("… fastsoftmax on its worst row", found if there else {}, "ours_there", ulp),
        ]
        if key[0] == "softmax":
            lines += [
                ("mean ULP", found, "mean_ulp", ulp),
                ("max ULP, subnormal results", found, "max_ulp_subnormal", ulp),
                ("subnormal results flushed to 0", found, "flushed", str),
                ("max |Σ − 1|", found, "sum_error", "{:.1e}".format),
                ("argmax lost", found, "argmax_lost", str),
            ]
        lines.append(("NaN", found, "nan", str))
        for title, of_libraries, figure, text in lines:
            texts = [text(e[figure]) if (e := of_libraries.get(n)) else "–" for n in names]
            # That nothing was lost needs no line.
            if of_libraries and (text is not str or set(texts) - {"0", "–"}):
                label = title if title.startswith("…") else f"`{key[0]}` {key[1]}, {title}"
                rows.append([label, *texts])
    return ["", *names], rows


def changed_bits(document: Document) -> Lines:
    """Return the shares of rows whose bits change with what should not matter."""
    entries = document["reproducibility"]
    names, found = libraries(entries), {(e["library"], e["dtype"]): e for e in entries}
    rows = [
        [f"{text}, {dtype}", *(percent(found.get((name, dtype), {}).get(key)) for name in names)]
        for key, text in (("layout", "memory layout"), ("batch", "the batch"), ("cpu", "the CPU"))
        for dtype in dict.fromkeys(entry["dtype"] for entry in entries)
    ]
    return ["with", *names], rows


def _by_family(entries: list[Entry]) -> Lines:
    def text(entry: Entry | None) -> str:
        if entry is None:
            return "–"
        return f"[red]{entry['nan']} NaN[/]" if entry["nan"] else ulp(entry["max_ulp"])

    names, found = libraries(entries), {(e["family"], e["library"]): e for e in entries}
    families = dict.fromkeys(entry["family"] for entry in entries)
    rows = [[family, *(text(found.get((family, name))) for name in names)] for family in families]
    return ["family", *names], rows


MOST_RUNS = 40
"""Runs of equal elements that are printed of a row; the JSON has all."""


def _arguments(entry: Entry) -> str:
    """Return the options of the call, and how many rows it had if more than this one."""
    parts = []
    parameter = BY_TITLE[entry["computation"]].parameter
    if parameter:
        parts.append(f"{parameter}={entry[parameter]!r}")
    if entry["rows"] > 1:
        parts.append(f"{entry['rows']} such rows")
    return ", ".join(parts) or "–"


def _kinds(entries: list[Entry]) -> Lines:
    rows = []
    for entry in entries:
        row = [entry["title"], entry["dtype"], f"{entry['tried']:,}"]
        if "x" not in entry:
            rows.append([*row, *"–––––"])
            continue
        figure = f"{entry['max_ulp']:.4f}"
        shown = f"[red]{figure}[/]" if entry["max_ulp"] > entry["bound"] else figure
        more = (f"{entry['bound']:.4g}", entry["by"], str(entry["n"]), _arguments(entry))
        rows.append([*row, shown, *more])
    return ["result", "dtype", "rows tried", "max ULP", "bound", "by", "n", "arguments"], rows


def _numbers(name: str, text: str | int) -> str:
    if isinstance(text, int):
        return f"{name} = {text}"
    runs = text.split(", ")
    shown = runs if len(runs) <= MOST_RUNS else [*runs[:4], f"... {len(runs)} in the JSON"]
    return f"{name} = [{', '.join(shown)}]"


def _row(entry: Entry) -> str:
    """Return a worst row in hex, and the peers' errors on it."""
    title = f"{entry['title']} {entry['dtype']}: {entry['max_ulp']:.4f} ULP"
    where = f"element {entry['element']} of {entry['n']} ({entry['family']})"
    lines = [
        f"{title}, {where}; {_arguments(entry)}",
        f"  {_numbers('x', entry['x'])}",
    ]
    computation = BY_TITLE[entry["computation"]]
    seconds = filter(None, (computation.second, "where" if computation.masked else ""))
    lines += [f"  {_numbers(name, entry[name])}" for name in seconds]
    if entry["peers"]:
        lines.append("  " + ", ".join(f"{name} {ulp(v)}" for name, v in entry["peers"].items()))
    return "\n".join(lines)


def print_report(console: Console, document: Document) -> None:
    """Print the families, the summary and the reproducibility; or the worst rows of a search."""
    fallback_banner(console, document)
    console.print(heading(document))
    if document["kind"] == "search":
        tables = {"Worst rows by kind of result": _kinds(document["search"])}
    else:
        tables = {
            f"{function} {dtype}: max ULP by family of rows": _by_family(entries)
            for (function, dtype), entries in groups(document).items()
        }
        tables["Worst over the families"] = worst_errors(document)
        tables["Share of rows whose bits change (256 rows of 1000)"] = changed_bits(document)
    for title, (headings, rows) in tables.items():
        texts = 2 if document["kind"] == "search" else 1
        console.print(table_of(title, headings, rows, texts=texts))
    for entry in document.get("search", ()):
        if "x" in entry:
            console.print(_row(entry), markup=False, soft_wrap=True)
    fallback_banner(console, document)
