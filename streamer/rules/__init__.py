"""Rules turn events into alarms, clips and snapshots, by configuration alone.

section.py says what can be configured, engine.py decides when a rule fires, jobs.py what is cut.
"""

__all__: list[str] = []
