"""Build and run networks with NVIDIA's TensorRT 8.6, 10 and 11 through one path."""

__all__: list[str] = []
