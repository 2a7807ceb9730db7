from typing import Any

from pgambassador.net.lane import Lane, Waiter

class Preparing(Waiter):
    def __init__(self, lane: Lane) -> None: ...
    @property
    def lane(self) -> Lane: ...
    @property
    def policy(self) -> Any: ...
