"""Drivers' own test suites, directly and through pgambassador in both modes: what differs.

    python -m tests.suites [suite…] [--only EXPRESSION] [--keep FOLDER]

A suite comes with its driver's wheel, or its source archive is fetched with pip. It is run three times; where
a test ends otherwise than directly without standing in `known.txt` with a reason, the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psycopg

from pgambassador.embedded import Postgres, Workspace
from tests.harness import Ambassador
from tests.suites.suites import SUITES, Place, Suite

KNOWN = Path(__file__).parent / "known.txt"
MODES = ("transaction", "session")
BAD = ("failure", "error")
Outcomes = dict[str, str]


def known(suite: str, mode: str) -> set[str]:
    """Tests that are known to end otherwise: lines of suite, mode or any, test, and the reason behind `#`."""
    found = set()
    for line in KNOWN.read_text("utf-8").splitlines():
        words = line.partition(" # ")[0].split(maxsplit=2)
        if len(words) == 3 and words[0] == suite and words[1] in (mode, "any"):
            found.add(words[2].strip())
    return found


def run(suite: Suite, place: Place, folder: Path, only: str) -> Outcomes:
    command = [*suite.command(place, folder), *(("-k", only) if only else ())]
    environment = {**os.environ, **suite.environment(place)}
    written = folder / f"{place.name}.log"
    with written.open("wb") as log:
        subprocess.run(
            command, cwd=suite.folder(folder), env=environment, stdout=log, stderr=log, check=False
        )
    found = suite.outcomes(place, folder)
    if found is None:
        sys.exit(f"{suite.name} did not run; its output:\n{written.read_text('utf-8', 'replace')[-3000:]}")
    return found


def compare(suite: Suite, results: dict[str, Outcomes]) -> bool:
    """Print what differs; whether nothing does that is not known."""
    direct = results["direct"]
    fine = True
    print(f"{suite.name}: {len(direct)} tests")
    for name, found in results.items():
        print(f"  {name}: {sum(each in BAD for each in found.values())} failed", flush=True)
        reasons = known(suite.name, name)
        for test in sorted(direct.keys() | found.keys()):
            one, other = direct.get(test, "missing"), found.get(test, "missing")
            if one != other and not (one in BAD and other in BAD):
                expected = test in reasons
                fine = fine and expected
                print(
                    f"    {'known' if expected else 'NEW'}: {test}: {one} directly, {other} here", flush=True
                )
    return fine


def fresh(server: Postgres, name: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)")
        connection.execute(f"create database {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.suites")
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"some of {', '.join(SUITES)}")
    parser.add_argument("--only", default="", help="tests that match this, as -k of pytest has it")
    parser.add_argument("--keep", type=Path, help="a folder for reports and logs")
    arguments = parser.parse_args()
    fine = True
    with ExitStack() as stack:
        parent = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Workspace()).primary(
            "suites",
            hba=("local all all trust", "host all all 127.0.0.1/32 trust"),
            settings={"max_prepared_transactions": "10", "wal_level": "logical"},
        )
        ports = {"direct": server.port}
        for mode in MODES:
            folder = parent / f"ambassador-{mode}"
            folder.mkdir(parents=True, exist_ok=True)
            front = Ambassador(folder, server.url("postgres", None, ""), pool={"mode": mode})
            ports[mode] = stack.enter_context(front).port
        for name in arguments.suites or SUITES:
            suite = SUITES[name]
            folder = parent / name
            folder.mkdir(parents=True, exist_ok=True)
            suite.prepare(folder)
            results = {}
            for place, port in ports.items():
                database = f"suite_{place}"
                fresh(server, database)
                with psycopg.connect(server.url(database=database), autocommit=True) as inside:
                    inside.execute(suite.setup)
                results[place] = run(suite, Place(place, port, database), folder, arguments.only)
            fine = compare(suite, results) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
