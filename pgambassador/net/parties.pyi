from typing import Any

from pgambassador.net.backend import Backend
from pgambassador.net.channel import Channel

class Statement:
    frame: bytes
    shape: bytes | None
    age: int | None
    settings: Any
    def __init__(self, name: bytes, frame: bytes, text: bytes) -> None: ...
    @property
    def name(self) -> bytes: ...
    @property
    def text(self) -> bytes: ...
    @property
    def sets(self) -> bool: ...
    @property
    def resets(self) -> bool: ...

class Client:
    # Whatever the policy brings servers into; compared by identity.
    state: Any
    bereaved: bool
    @property
    def channel(self) -> Channel: ...
    @property
    def backend(self) -> Backend | None: ...
    @property
    def riding(self) -> bool: ...
    @property
    def statements(self) -> dict[bytes, Statement]: ...

class Home:
    policy: Any
    sticky: bool
    standby: bool
    together: float
    first_answer: float
    statement_limit: int
    high_water: int
    @property
    def transactions(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
