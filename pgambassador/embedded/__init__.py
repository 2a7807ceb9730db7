"""PostgreSQL servers of our own, for the demo and the tests: found, started, broken and cleaned away."""

from pgambassador.embedded.authority import Authority, Certificate
from pgambassador.embedded.installation import Installation, find, system
from pgambassador.embedded.server import Postgres
from pgambassador.embedded.workspace import Workspace

__all__ = ["Authority", "Certificate", "Installation", "Postgres", "Workspace", "find", "system"]
