"""Bridges take events from the durable log to brokers and web servers, one process each.

section.py says what can be configured, pump.py never loses an event, the others speak a protocol.
"""

__all__: list[str] = []
