from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from pgambassador.embedded import Workspace
from tests.same.place import HBA, Place


@pytest.fixture(scope="package")
def place(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = workspace.primary("same", hba=HBA, settings={"max_prepared_transactions": "4"})
    with (
        psycopg.connect(server.url(), autocommit=True) as superuser,
        closing(Place(server, superuser, tmp_path_factory)) as place,
    ):
        yield place
