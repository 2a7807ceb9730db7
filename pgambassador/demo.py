"""`pgambassador demo`: a primary, a streaming replica and the ambassador in front of them, until Ctrl-C.

1. The lines to copy are printed when they work, not before.
2. However it ends (an error, Ctrl-C, TERM, a closed terminal), the servers stop and their folder is removed.
"""

from __future__ import annotations

import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from pgambassador.config import Config, Tls
from pgambassador.config.secret import Secret
from pgambassador.config.structs import Cluster, Log
from pgambassador.embedded import Certificate, Postgres, Workspace
from pgambassador.embedded.ports import HOST, free_port, is_free

Serve = Callable[[Config], Coroutine[Any, Any, int]]

PORT, HTTP_PORT = 5432, 9187
POLL = 0.02


def main() -> int:
    from pgambassador.process.service import serve

    return demo(serve)


def demo(serve: Serve) -> int:
    """Runs until `serve` ends; its exit code."""
    import uvloop

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # while there is no loop that listens to them
    workspace = Workspace()
    try:
        primary = workspace.primary()
        replica = primary.replica()
        config = configuration(primary, replica, workspace.authority.server(workspace.folder, "ambassador"))
        ended = threading.Event()
        signal.signal(signal.SIGHUP, _hang_up)  # the loop takes INT and TERM for itself
        announcing = threading.Thread(target=_announce, args=(config, primary, replica, ended))
        announcing.start()
        try:
            return uvloop.run(serve(config))
        finally:
            ended.set()
            announcing.join()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave a server behind
        workspace.close()


def configuration(primary: Postgres, replica: Postgres, certificate: Certificate) -> Config:
    hosts = f"{HOST}:{primary.port}", f"{HOST}:{replica.port}"
    return Config(
        listen=(f"{HOST}:{_preferably(PORT)}",),
        http=f"{HOST}:{_preferably(HTTP_PORT)}",
        clusters={"demo": Cluster(url=Secret(primary.url().replace(hosts[0], ",".join(hosts))))},
        tls=Tls(certificate=str(certificate.chain), key=str(certificate.key)),
        log=Log(level="warning"),
    )


def invitation(config: Config, primary: Postgres, replica: Postgres) -> str:
    """What to type, and what is running."""
    dsn = f"postgresql://postgres@{config.listen[0]}/postgres"
    psql = "psql" if shutil.which("psql") else primary.installation.command("psql")
    return f"""
  primary     {HOST}:{primary.port}, PostgreSQL {primary.installation.version}, TLS only
  replica     {HOST}:{replica.port}, streaming
  ambassador  {config.listen[0]}, metrics at http://{config.http}/metrics
              plain, or TLS: sslmode=verify-full sslrootcert={config.clusters["demo"].upstream().sslrootcert}

  {psql} {dsn}

Any client can use {dsn}
Ctrl-C ends it and removes everything.
"""


def _announce(config: Config, primary: Postgres, replica: Postgres, ended: threading.Event) -> None:
    while not ended.wait(POLL):
        try:
            with urllib.request.urlopen(f"http://{config.http}/readyz", timeout=5):
                print(invitation(config, primary, replica), flush=True)
                return
        except (OSError, urllib.error.URLError):
            continue


def _preferably(port: int) -> int:
    return port if is_free(port) else free_port()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _hang_up(number: int, frame: FrameType | None) -> None:
    """A closed terminal ends the demo as TERM does (uvloop sees a signal raised here twice: at once)."""
    signal.raise_signal(signal.SIGTERM)
