import ssl

NEWEST: tuple[int, int]
available: bool

def forget_sessions(tls: ssl.SSLObject) -> bool: ...
