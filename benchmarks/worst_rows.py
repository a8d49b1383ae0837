"""The worst rows of a search: confirmed by mpmath, as text, and other libraries on them."""

import json
import re
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from . import precise
from .computations import BY_TITLE, Batch, Kind, as_cell, call, errors, parts_of, terms
from .inputs import Array
from .peers import Peer

FILE = Path(__file__).with_name("worst_rows.json")
KEPT = 6
"""Rows of a kind in that file, each of another family."""
MOST_TEXT = 4000
"""Characters of an entry of that file."""


@dataclass
class Record:
    """The worst row of a kind."""

    ulps: float
    row: Batch
    rows: int
    """How often the row is repeated in the call."""
    element: int
    bound: float
    by: str
    """What says so: mpmath, or long double."""


def confirmed(functions: Any, kind: Kind, row: Batch, rows: int) -> Record:
    """Return the error of one row: alone, or beside others like it, whichever is larger."""
    results = [call(functions, kind.computation, row)]
    if rows > 1:
        beside = call(functions, kind.computation, row.repeated(rows))
        results.append(tuple(part[:1] for part in beside))
        if all(a.tobytes() == b.tobytes() for a, b in zip(*results, strict=True)):
            results.pop()
    backend = getattr(functions, "name", "")
    found = [_confirmed(kind, row, result, backend) for result in results]
    worst = max(found, key=lambda record: record.ulps)
    return replace(worst, rows=1 if worst is found[0] else rows)


def _confirmed(kind: Kind, row: Batch, results: tuple[Array, ...], backend: str) -> Record:
    found = errors(kind.computation, row, results, backend)[kind.part]
    element = int(found.ulps[0].argmax())
    ulps = float(found.ulps.max())
    record = Record(ulps, row, 1, element, found.promise, "long double")
    if not np.isfinite(ulps) or ulps == 0:
        return record
    name, operands, settings = terms(kind.computation, row)
    if settings.where is not None:
        settings.where = settings.where[0]
    if settings.b is not None:
        settings.b = np.asarray(settings.b)[0]
    right = precise.precisely(
        name, tuple(part[0] for part in operands), settings, found.part, element
    )
    if right is not None:
        besides = float(found.besides[0].flat[element])
        record.ulps = precise.error(found.got[0].flat[element], *right, found.bound, besides)
        record.by = "mpmath"
    return record


# ---- rows as text ----


def _text(row: Array) -> str:
    """Return a row's numbers in hex, masks as 0 and 1; equal neighbours once, with their number."""
    texts = []
    is_mask = row.dtype == bool
    for number, same in groupby(str(int(v)) if is_mask else float(v).hex() for v in row):
        text, count = re.sub(r"\.?0*p", "p", number), sum(1 for _ in same)
        texts.append(text if count == 1 else f"{text} * {count}")
    return ", ".join(texts)


def _numbers(text: str, dtype: Any) -> Array:
    """Return the row that `_text` stands for."""
    values: list[float] = []
    for run in text.split(", "):
        number, _, count = run.partition(" * ")
        values += [float.fromhex(number)] * int(count or 1)
    return np.array([values], dtype)


def as_entry(kind: Kind, record: Record) -> dict[str, Any]:
    """Return what a document says of a kind's worst row."""
    row, computation = record.row, kind.computation
    entry: dict[str, Any] = {
        "title": kind.title, "computation": computation.title, "part": kind.part,
        "dtype": kind.dtype, "max_ulp": record.ulps, "bound": record.bound, "by": record.by,
        "element": record.element, "n": row.x.shape[1], "rows": record.rows,
        "family": row.origin, "x": _text(row.x[0]),
    }  # fmt: skip
    if computation.parameter:
        entry[computation.parameter] = row.parameter
    if row.second is not None:
        is_index = computation.second == "indices"
        entry[computation.second] = int(row.second[0]) if is_index else _text(row.second[0])
    if row.where is not None:
        entry["where"] = _text(row.where[0])
    return entry


def from_entry(entry: dict[str, Any]) -> tuple[Kind, Batch]:
    """Return the kind and the row that an entry is of."""
    computation = BY_TITLE[entry["computation"]]
    x = _numbers(entry["x"], entry["dtype"])
    second: Array | None = None
    if computation.second == "indices":
        second = np.array([entry["indices"]])
    elif computation.second:
        second = _numbers(entry[computation.second], entry["dtype"])
    parameter = entry[computation.parameter] if computation.parameter else None
    where = _numbers(entry["where"], bool) if computation.masked else None
    kind = Kind(computation, entry["dtype"], entry["part"])
    return kind, Batch(x, second, parameter, entry["family"], where)


def known(path: Path = FILE) -> list[dict[str, Any]]:
    """Return the worst rows that searches have left in the file."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def measured(functions: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the error that its row has now."""
    record = confirmed(functions, *from_entry(entry), entry["rows"])
    return {**entry, "max_ulp": record.ulps, "by": record.by, "element": record.element}


def merge(functions: Any, entries: list[dict[str, Any]], path: Path = FILE) -> None:
    """Write the worst rows of each kind, of those given and those already in the file."""
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in (*(measured(functions, row) for row in known(path)), *entries):
        slim = {k: v for k, v in entry.items() if k not in ("bound", "tried", "seconds", "peers")}
        if len(json.dumps(slim)) <= MOST_TEXT:
            by_kind.setdefault((entry["dtype"], entry["title"]), []).append(slim)
    kept = []
    for _, rows in sorted(by_kind.items()):
        by_family = {row["family"]: row for row in sorted(rows, key=lambda row: row["max_ulp"])}
        kept += sorted(by_family.values(), key=lambda row: -row["max_ulp"])[:KEPT]
    path.write_text(json.dumps({"rows": kept}, indent=1) + "\n")


# ---- other libraries on the same row ----


def of_peers(rivals: list[Peer], kind: Kind, row: Batch) -> dict[str, float]:
    """Return the errors of the libraries that have the function, by name."""
    computation = replace(kind.computation, by_row=False)
    case, data = as_cell(computation, row)
    if data.where is not None and data.grad_output is None:
        masked = np.where(data.where, data.x, -np.inf).astype(kind.dtype)
        data = replace(data, x=masked, where=None)
    found = {}
    for peer in filter(lambda peer: peer.takes(case), rivals):
        try:
            made = peer.call(case, data)
            if made is None:
                continue
            with np.errstate(all="ignore"):
                parts = parts_of(computation, row, made.result())
        except Exception:  # noqa: BLE001 - a peer that lacks a dtype is left out
            continue
        if all(part.dtype == kind.dtype for part in parts):
            found[peer.name] = float(errors(computation, row, parts)[kind.part].ulps.max())
    return found
