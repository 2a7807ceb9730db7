"""`python -m benchmarks`: run the comparison, print its report, and keep it as Markdown and a picture."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.local import allow_many_files
from benchmarks.picture import draw
from benchmarks.postgres import Database
from benchmarks.report import Report
from benchmarks.rounds import Rounds
from benchmarks.scenarios import Bench, scenarios
from benchmarks.servers import DIRECT, POOL_SIZE, Target, find_targets
from benchmarks.targets import OURS
from pgambassador.embedded import Workspace
from pgambassador.errors import AmbassadorError

if TYPE_CHECKING:
    from benchmarks.results import Results

RESULTS = Path(__file__).parent / "results"
SCALE = 10  # a million rows of pgbench_accounts, 150 MB


def main() -> int:
    arguments = _arguments()
    allow_many_files()
    try:
        return _run(arguments)
    except AmbassadorError as error:
        print(f"benchmarks: {error.sentence()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=int, help="how long each pgbench runs (4)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 seconds")
    parser.add_argument(
        "--only",
        metavar="LOAD",
        action="append",
        help="only loads whose name begins so, as in 'simple', 'copy'",
    )
    parser.add_argument(
        "--targets", metavar="NAME", help="only targets whose name begins so, with commas between"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="where report and picture go (a full run: benchmarks/results)",
    )
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (2 if arguments.quick else 4)
    if not (arguments.output or arguments.quick or arguments.only or arguments.targets):
        arguments.output = RESULTS
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    targets, missing = find_targets()
    for sentence in missing:
        print(f"benchmarks: {sentence}", file=sys.stderr)
    if arguments.targets:
        prefixes = tuple(arguments.targets.lower().split(","))
        targets = [target for target in targets if target.name.lower().startswith(prefixes)]
    elif missing:
        print(
            "benchmarks: Without it there is nothing to compare; --targets runs the others.", file=sys.stderr
        )
        return 1
    loads = scenarios(prepared_in_transactions=all(target.prepared_in_transactions for target in targets))
    if arguments.only:
        loads = [load for load in loads if load.name.startswith(tuple(arguments.only))]
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=memory) as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)
        workspace = stack.enter_context(Workspace())
        database = Database(workspace, SCALE)
        replicated = cache(partial(Database, workspace, 1, replicas=2))
        bench = Bench(database, folder, arguments.seconds, replicated)
        results = Rounds(bench, targets, stack).run(loads, arguments.rounds)
        server = database.version
    _publish(arguments, results, targets, server)
    return 0


def _publish(arguments: argparse.Namespace, results: Results, targets: list[Target], server: str) -> None:
    today = datetime.datetime.now().astimezone().date().isoformat()
    names = [target.name for target in targets]
    bouncer = next((name for name in names if name not in (DIRECT, OURS)), None)
    facts = [*machine.describe(), server, *(f"{target.name}: {target.version}" for target in targets)]
    how = (
        f"{arguments.rounds} rounds, {arguments.seconds:g} s for each load; medians. {POOL_SIZE} server "
        "connections, verified TLS to PostgreSQL, plain text to the clients, everything on one machine. "
        "**Read ratios**: they hold within this run; absolute numbers belong to this machine and this hour. "
        "In brackets: the smallest and largest ratio of single rounds."
    )
    title = f"Side by side, {today}"
    intro = [f"# {title}", how, "\n".join(f"- {fact}" for fact in facts)]
    sections = list(Report(results, names).sections())
    if arguments.output and bouncer:
        arguments.output.mkdir(parents=True, exist_ok=True)
        bars = sorted((name for name in names if name != bouncer), key=lambda name: name != OURS)
        (arguments.output / f"{today}.svg").write_text(draw(results, bars, bouncer, title))
        intro.append(f"![Ratios to {bouncer}]({today}.svg)")
    text = "\n\n".join([*intro, *sections, ""])
    print(text)
    if arguments.output:
        (arguments.output / f"{today}.md").write_text(text)
        print(f"Written to {arguments.output}/{today}.md", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
