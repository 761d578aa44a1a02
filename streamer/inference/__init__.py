"""What the infer process does beside running a detector: taking turns, second looks, motion."""

__all__: list[str] = []
