from pgambassador.net.errands import Errands

class Lobby(Errands):
    def refuse(self, error: bytes) -> None: ...
