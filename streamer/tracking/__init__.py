"""Turn detections into tracks with identities; knows no queue, no process and no pixel."""

__all__: list[str] = []
