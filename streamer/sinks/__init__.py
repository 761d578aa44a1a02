"""Turn annotated frames into files and sockets; used by the encode and publish processes."""

__all__: list[str] = []
