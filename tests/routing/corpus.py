"""Statements, where each should go and why, and what a catalog says of the schema that they are about.

A file of `statements/` has lines `kind target: statement`, which may go on in lines that begin with four
spaces, each under a line `# why`. `catalog.json` is the answer to `routing.catalog.QUERY` where `schema.sql`
was run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pgambassador.routing.catalog import Catalog, read
from tests.messages import row

HERE = Path(__file__).parent
SCHEMA = HERE / "schema.sql"
RECORDED = HERE / "catalog.json"
_LINE = re.compile(r"([a-z]+) ([a-z]+): (.+)")

Row = tuple[str, str, str]


@dataclass(frozen=True)
class Statement:
    kind: str
    target: str
    text: str
    why: str

    def __str__(self) -> str:
        return self.text[:60]


def _statements() -> Iterator[Statement]:
    for path in sorted((HERE / "statements").glob("*.txt")):
        why = ""
        held: Statement | None = None
        for line in path.read_text().splitlines():
            match = _LINE.fullmatch(line)
            if held is not None and line.startswith("    "):
                held = Statement(held.kind, held.target, f"{held.text}\n{line[4:]}", why)
                continue
            if held is not None:
                yield held
                held = None
            if match is not None:
                assert why, f"{path.name}: nothing says why of {line!r}"
                held = Statement(match[1], match[2], match[3], why)
            elif line.startswith("# "):
                why = line[2:]
            else:
                assert not line, f"{path.name}: {line!r}"
        if held is not None:
            yield held


STATEMENTS = list(_statements())


def normal(rows: Iterable[Row]) -> list[Row]:
    """In an order that does not change."""
    return sorted((kind, "\n".join(sorted(names.split("\n"))), detail) for kind, names, detail in rows)


def as_catalog(rows: Iterable[Row]) -> Catalog:
    return read(row(*(value.encode() for value in each)) for each in rows)


@cache
def recorded() -> Catalog:
    return as_catalog(json.loads(RECORDED.read_text()))
