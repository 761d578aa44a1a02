"""Turn camera streams into detections, tracks, events and recordings, one process per stage."""

__all__ = ["__version__"]

__version__ = "0.1.0"
