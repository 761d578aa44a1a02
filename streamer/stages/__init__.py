"""One module per stage process; each is started by its dotted name and imports no other stage."""

__all__: list[str] = []
