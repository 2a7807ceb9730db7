"""Bytes: the frames of the protocol, cut, built and read."""

try:
    from pgambassador.wire import framing as framing
except ModuleNotFoundError:
    raise ImportError(
        "pgambassador is not compiled here: run `pip install -e .` in the folder with its pyproject.toml"
    ) from None
