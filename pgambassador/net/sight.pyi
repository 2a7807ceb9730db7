from pgambassador.net.requests import Requests

class Sight(Requests):
    @property
    def written_at(self) -> float: ...
