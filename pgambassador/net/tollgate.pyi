from typing import Any

from pgambassador.net.backend import Backend
from pgambassador.net.recall import Recall

class Tollgate(Recall):
    guard: Any
    @property
    def detained(self) -> bool: ...
    def proceed(self) -> None: ...
    def cut_off(self, backend: Backend) -> None: ...
