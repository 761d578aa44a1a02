"""Recognise actions by the motion of deep features (OFF), on clips and on endless streams."""

__all__: list[str] = []
