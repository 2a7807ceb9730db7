from pgambassador.net.errands import Errands

class Recall(Errands):
    @property
    def recalled(self) -> bool: ...
