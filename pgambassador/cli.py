"""The command line: arguments in, one call out.

1. Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.
2. Every error is one sentence (and a remedy) on standard error, without a traceback and without a secret.
3. Nothing heavy is imported before it is known what to do.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from pgambassador import __version__
from pgambassador.errors import AmbassadorError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgambassador.config import Config
    from pgambassador.process.fallback import Fallback

OK, FAILED, USAGE = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}.", hint=f"See {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except KeyboardInterrupt:
        return 130  # what a shell reports for SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
        return FAILED
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """One sentence on standard error, and the exit code."""
    debug = os.environ.get("PGAMBASSADOR_DEBUG", "") not in ("", "0")
    if debug:
        traceback.print_exception(error)
    match error:
        case ConfigError():
            sentence, code = error.sentence(), USAGE
        case AmbassadorError():
            sentence, code = error.sentence(), FAILED
        case OSError() if error.strerror:
            name = f"{error.filename}: " if error.filename else ""
            sentence, code = f"{name}{error.strerror}.", FAILED
        case _:
            what = f"{type(error).__name__}: {error}".rstrip(": ").replace("\n", " ")
            sentence, code = f"This should not have happened ({what}).", FAILED
            if not debug:
                sentence += " Set PGAMBASSADOR_DEBUG=1 to see where."
    _complain(sentence)
    return code


def _complain(sentence: str) -> None:
    from pgambassador.config.secret import redact

    print(f"pgambassador: {redact(sentence)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pgambassador", description="A PostgreSQL proxy.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"pgambassador {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the proxy", allow_abbrev=False)
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="test the configuration and the connection", allow_abbrev=False)
    check.set_defaults(command=_check)
    for each in (run, check):
        _options(each)
    reload = commands.add_parser(
        "reload", help="let a running proxy read everything again, and say how that ended", allow_abbrev=False
    )
    reload.set_defaults(command=_reload)
    _options_of_reload(reload)
    explain = commands.add_parser("explain", help="say where a statement goes, and why", allow_abbrev=False)
    explain.set_defaults(command=_explain_sql)
    _options_of_explain(explain)
    demo = commands.add_parser(
        "demo", help="run a primary, a replica and the proxy to try", allow_abbrev=False
    )
    demo.set_defaults(command=_demo)
    return parser


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", metavar="URL", nargs="?", help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…"
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file")
    parser.add_argument(
        "--listen",
        metavar="ADDR",
        action="append",
        help="HOST:PORT or unix:/directory, may be repeated (127.0.0.1:5432)",
    )
    parser.add_argument(
        "--http", metavar="ADDR", help="HOST:PORT of metrics and health checks, or off (127.0.0.1:9187)"
    )
    parser.add_argument("--pool-size", metavar="N", help="server connections for each database and user (20)")
    parser.add_argument("--pool-mode", metavar="MODE", help="transaction or session (transaction)")
    parser.add_argument(
        "--state", metavar="DIR", help="where what was good last is kept, for a start during an outage"
    )


def _options_of_reload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        help="of its console: postgresql://USER@HOST:PORT/pgambassador?sslmode=…",
    )
    parser.add_argument("--config", metavar="FILE", help="left out the URL: the file says where it listens")
    parser.set_defaults(listen=None, http=None, pool_size=None, pool_mode=None, state=None)


def _options_of_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sql", metavar="SQL", help="the statement")
    parser.add_argument("url", metavar="URL", nargs="?", help="the servers to ask; left out: none is asked")
    parser.add_argument("--config", metavar="FILE", help="configuration file")
    parser.add_argument("--user", metavar="NAME", help="the client's user, for the rules")
    parser.add_argument("--database", metavar="NAME", help="the database that the client asks for")
    parser.add_argument("--application-name", metavar="NAME", default="", help="the client's, for the rules")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(listen=None, http=None, pool_size=None, pool_mode=None, state=None)


def _load(arguments: argparse.Namespace, **more: Any) -> Config:
    from pgambassador.config import load
    from pgambassador.config.build import Given

    flags: dict[str, Any] = {}
    for option, flag in (
        ("http", "--http"),
        ("pool.size", "--pool-size"),
        ("pool.mode", "--pool-mode"),
        ("state", "--state"),
    ):
        value = getattr(arguments, option.replace(".", "_"))
        if value is not None:
            flags[option] = Given(value, flag)
    if arguments.listen:
        flags["listen"] = [Given(value, "--listen") for value in arguments.listen]
    return load(path=arguments.config, url=arguments.url, flags=flags, environ=os.environ, **more)


def _run(arguments: argparse.Namespace) -> int:
    path = arguments.config or os.environ.get("PGAMBASSADOR_CONFIG")
    directory = arguments.state or os.environ.get("PGAMBASSADOR_STATE")
    fallback: Fallback | None = None
    if path and directory:
        from pgambassador.process.fallback import Fallback
        from pgambassador.process.service import prove
        from pgambassador.process.store import Store

        fallback = Fallback(lambda read: _load(arguments, read=read), path, Store(directory), prove)
    again = fallback.again if fallback is not None else lambda: _load(arguments)
    config = fallback.first() if fallback is not None else again()
    import uvloop

    from pgambassador.process.service import serve

    return uvloop.run(serve(config, again, fallback))


def _check(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    import uvloop

    from pgambassador.check import check

    return uvloop.run(check(config))


def _reload(arguments: argparse.Namespace) -> int:
    from pgambassador.remote import of_config, reload

    url = arguments.url
    if url is None:
        url = of_config(_load(arguments))
    import uvloop

    return uvloop.run(reload(url))


def _explain_sql(arguments: argparse.Namespace) -> int:
    named = arguments.url or arguments.config or os.environ.get("PGAMBASSADOR_CONFIG")
    spoken = any(name.startswith(("PGAMBASSADOR_CLUSTERS__", "UPSTREAM_HOST")) for name in os.environ)
    config = _load(arguments) if named or spoken else None
    import uvloop

    from pgambassador.explain import explain

    return uvloop.run(
        explain(
            arguments.sql,
            config,
            user=arguments.user,
            database=arguments.database,
            application_name=arguments.application_name,
            as_json=arguments.json,
        )
    )


def _demo(arguments: argparse.Namespace) -> int:
    from pgambassador.demo import main as demo

    return demo()
