"""The durable log of events: SQLite in WAL mode; publish alone writes it, anybody reads it."""

from streamer.eventlog.cursors import Cursor, cursors
from streamer.eventlog.log import EventLog
from streamer.eventlog.place import default_path, log_path
from streamer.eventlog.reader import LogReader
from streamer.eventlog.rows import Entry, Row

__all__ = [
    "Cursor",
    "Entry",
    "EventLog",
    "LogReader",
    "Row",
    "cursors",
    "default_path",
    "log_path",
]
