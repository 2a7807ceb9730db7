"""A certificate authority that lives as long as its folder, and the certificates that it signs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgambassador.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Certificate:
    """A chain and its private key, as files."""

    chain: Path
    key: Path


class Authority:
    """Its own certificate is the file `root`, for sslrootcert."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        try:
            import trustme
        except ImportError:
            raise ConfigError(
                "Certificates cannot be made without the package trustme.",
                hint="Run pip install 'pgambassador[demo]'.",
            ) from None
        self.root = folder / f"{name}.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.root))

    def __repr__(self) -> str:
        return f"<Authority {self.root}>"

    def server(
        self,
        folder: Path,
        name: str = "server",
        *,
        hosts: tuple[str, ...] = LOOPBACK,
        expired: bool = False,
        days: float | None = None,
    ) -> Certificate:
        """`days`: it ends after as many."""
        return self._issue(folder, name, hosts=hosts, user=None, days=-1 if expired else days)

    def client(self, folder: Path, user: str, *, expired: bool = False) -> Certificate:
        """For pg_hba.conf's method cert: the common name is the user."""
        # A list of names without any is a certificate that Java does not read.
        return self._issue(folder, user, hosts=("client.example",), user=user, days=-1 if expired else None)

    def _issue(
        self, folder: Path, name: str, *, hosts: tuple[str, ...], user: str | None, days: float | None
    ) -> Certificate:
        until = None if days is None else datetime.now(UTC) + timedelta(days=days)
        issued = self._authority.issue_cert(*hosts, common_name=user, not_after=until)
        certificate = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
        certificate.chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        certificate.key.unlink(missing_ok=True)
        certificate.key.touch(mode=0o600)
        certificate.key.write_bytes(issued.private_key_pem.bytes())
        return certificate
