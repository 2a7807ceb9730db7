from pgambassador.net.tollgate import Tollgate

class Lobby(Tollgate):
    def refuse(self, error: bytes) -> None: ...
