"""One PostgreSQL server: made, started, broken, promoted and copied.

1. Its folder holds everything: data, certificate, socket and log. Nothing of it is anybody else's to read.
2. It keeps its port for life, so that a restarted server is found where it was.
3. It is our child in a session of its own: Ctrl-C in a terminal reaches us, and we stop it in our order.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from pgambassador.embedded.account import Account
from pgambassador.embedded.authority import LOOPBACK, Authority
from pgambassador.embedded.installation import Installation
from pgambassador.embedded.ports import HOST, free_port
from pgambassador.errors import AmbassadorError

SUPERUSER = "postgres"
START_TIMEOUT = 60.0
POLL = 0.005

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1,::1",
    "ssl": "on",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "wal_keep_size": "256MB",  # a replica that was away finds its way back
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    "wal_receiver_status_interval": "1s",
    # Thrown away afterwards: surviving a power cut is worth nothing.
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
}
HBA = ("local all all scram-sha-256", "hostssl all all all scram-sha-256")
_REPLICATION = ("local replication all scram-sha-256", "hostssl replication all all scram-sha-256")


class Postgres:
    """`Workspace.primary` and `replica` make them."""

    def __init__(
        self,
        folder: Path,
        installation: Installation,
        authority: Authority,
        account: Account,
        password: str,
        register: Callable[[Postgres], None],
    ) -> None:
        self.folder = folder
        self.installation = installation
        self.authority = authority
        self.password = password
        self.port = free_port()
        self.log = folder / "log"
        self.socket_folder = folder / "socket"
        self._account = account
        self._register = register
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o755)
        for private in (self.data, self.socket_folder):
            private.mkdir(mode=0o700 if private == self.data else 0o755)
            account.give(private)
        self.log.touch(mode=0o600)
        self.certify()
        register(self)

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "stopped"
        return f"<Postgres {self.installation.version} {self.folder.name} port {self.port} {state}>"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    # making

    def initialise(self, settings: Mapping[str, str], hba: Sequence[str]) -> None:
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        self._account.give(secret)
        self._run(
            *("initdb", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"),
            *(
                "--auth=scram-sha-256",
                f"--username={SUPERUSER}",
                f"--pwfile={secret}",
                f"--pgdata={self.data}",
            ),
        )
        secret.unlink()
        self.configure({**SETTINGS, **settings})
        (self.data / "pg_hba.conf").write_text("\n".join((*_REPLICATION, *hba)) + "\n")

    def replica(self, name: str = "replica", settings: Mapping[str, str] | None = None) -> Postgres:
        """A streaming copy, started."""
        copy = Postgres(
            self.folder.parent / name,
            self.installation,
            self.authority,
            self._account,
            self.password,
            self._register,
        )
        source = f"host={HOST} port={self.port} user={SUPERUSER} application_name={name}"
        copy._run(
            *("pg_basebackup", "--checkpoint=fast", "--no-sync", "--no-manifest", "--write-recovery-conf"),
            f"--dbname={source} sslmode=verify-full sslrootcert={self.authority.root}",
            f"--pgdata={copy.data}",
        )
        copy.configure(settings or {})
        copy.start()
        return copy

    def configure(self, settings: Mapping[str, str]) -> None:
        """Takes effect at the next start or reload. What was set before and is not named stays."""
        own = {
            "port": str(self.port),
            "cluster_name": self.folder.name,
            "unix_socket_directories": str(self.socket_folder),
            "ssl_cert_file": str(self.folder / "server.crt"),
            "ssl_key_file": str(self.folder / "server.key"),
            "ssl_ca_file": str(self.authority.root),
        }
        with (self.data / "postgresql.conf").open("a") as file:  # the last line about a setting wins
            for name, value in {**settings, **own}.items():
                escaped = value.replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{escaped}'\n")

    def certify(
        self, authority: Authority | None = None, *, hosts: tuple[str, ...] = LOOPBACK, expired: bool = False
    ) -> None:
        """A new certificate; a server that runs takes it with `reload`."""
        certificate = (authority or self.authority).server(self.folder, hosts=hosts, expired=expired)
        self._account.give(certificate.key)

    # life

    def start(self) -> None:
        """Returns when connections are accepted."""
        assert not self.running, self
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            offset = self.log.stat().st_size
            self._spawn()
            if self._ready(deadline):
                return
            complaint = self._complaint(offset)
            # The processes of a killed server may need a moment to notice, and hold its memory until then.
            if "pre-existing shared memory" not in complaint or time.monotonic() > deadline:
                raise AmbassadorError(f"PostgreSQL {self.installation.version} did not start: {complaint}")
            time.sleep(10 * POLL)

    def stop(self, *, immediate: bool = False) -> None:
        """Fast: sessions are cut with 57P01, then a checkpoint. Immediate: as in a crash."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children end when they notice."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Returns when the postmaster has read its files again."""
        loaded = "select pg_conf_load_time()"
        before = self.sql(loaded)
        self.sql("select pg_reload_conf()")
        deadline = time.monotonic() + START_TIMEOUT
        while self.sql(loaded) == before:
            if time.monotonic() > deadline:
                raise AmbassadorError(f"PostgreSQL in {self.folder} did not reload its configuration.")
            time.sleep(POLL)

    def freeze(self) -> None:
        """The postmaster answers nobody: new connections hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def promote(self) -> None:
        """A replica becomes a primary; returns when it is one."""
        if self.sql("select pg_promote(true, 60)") != "t":
            raise AmbassadorError(f"The replica in {self.folder} was not promoted within 60 s.")

    # use

    def sql(self, text: str, *, database: str = "postgres", user: str = SUPERUSER, password: str = "") -> str:
        """Through psql and the Unix socket: rows as lines, columns parted by `|`."""
        return self._run(
            *("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_folder)),
            *("-p", str(self.port), "-U", user, "-d", database),
            stdin=text,
            password=password or self.password,
        ).rstrip("\n")

    def url(
        self,
        user: str = SUPERUSER,
        password: str | None = None,
        database: str = "postgres",
        **parameters: str,
    ) -> str:
        """Over TLS, verified, unless the parameters say something else."""
        secret = self.password if password is None and user == SUPERUSER else password
        login = quote(user, safe="") + (f":{quote(secret, safe='')}" if secret is not None else "")
        query = {"sslmode": "verify-full", "sslrootcert": str(self.authority.root), **parameters}
        encoded = urlencode(query, quote_via=quote)  # libpq does not read + as a space
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(database, safe='')}?{encoded}"

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.installation.folder / "postgres", "-D", self.data],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **self._account.identity,
            )

    def _ready(self, deadline: float) -> bool:
        """False if it has ended. The eighth line of postmaster.pid is its state."""
        assert self._process is not None
        while self._process.poll() is None:
            try:
                lines = (self.data / "postmaster.pid").read_text().splitlines()
            except OSError:
                lines = []
            if len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return True
            if time.monotonic() > deadline:
                raise AmbassadorError(
                    f"PostgreSQL in {self.folder} was not ready within {START_TIMEOUT:.0f} s.",
                    hint=f"Its log is {self.log}.",
                )
            time.sleep(POLL)
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _complaint(self, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            lines = log.read().decode(errors="replace").splitlines()
        # FATAL often says only that there was an error; the line before it says which.
        said = [line.partition("] ")[2] or line for line in lines[-3:]]
        return "; ".join(said) or "it ended without a word"

    def _run(self, program: str, *arguments: str, stdin: str = "", password: str = "") -> str:
        environment = self._environment(PGPASSWORD=password or self.password)
        return self.installation.run(program, *arguments, environment=environment, stdin=stdin)

    def _environment(self, **more: str) -> dict[str, str]:
        # libpq and psql look into the home folder, and the other account may not even enter ours.
        return self.installation.environment(HOME=str(self.folder), **more)
