"""Our own log: one JSON object a line on standard error."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec

from pgambassador.config import redact

_EXTRA = ("client", "cluster", "database", "user")


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, and what the call gave as `extra`; a traceback as one field."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _sound(redact(record.getMessage())),
        }
        for name in _EXTRA:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = _sound(str(value))
        if record.exc_info:
            line["traceback"] = _sound(redact(self.formatException(record.exc_info)))
        return msgspec.json.encode(line).decode()


def _sound(text: str) -> str:
    """msgspec refuses lone surrogates, which text of a peer that was not UTF-8 may have been decoded to."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def set_up(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())
