"""What the tests stand on: servers with users of every kind, the ambassador as a process, a link to break."""

from tests.harness.ambassador import Ambassador
from tests.harness.clients import pgbench, psql
from tests.harness.link import Link
from tests.harness.metrics import Metrics
from tests.harness.servers import HBA, USERS, User, populate, several
from tests.harness.waiting import wait_until
from tests.harness.wire import Answer, Message, Wire

__all__ = [
    "HBA",
    "USERS",
    "Ambassador",
    "Answer",
    "Link",
    "Message",
    "Metrics",
    "User",
    "Wire",
    "pgbench",
    "populate",
    "psql",
    "several",
    "wait_until",
]
