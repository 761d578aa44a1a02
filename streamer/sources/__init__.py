"""Turn a source URI into decoded frames with their times; used by the decode process."""

__all__: list[str] = []
