"""Second-stage networks: from a detector's boxes to a second opinion, on any engine."""

__all__: list[str] = []
