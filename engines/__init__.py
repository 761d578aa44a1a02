"""Turn trained networks into something that runs; knows no queue and no process."""

__all__: list[str] = []
