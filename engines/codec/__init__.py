"""Learned video codecs: pictures in YUV 4:2:0 to bytes and back, their training and evaluation."""

import os

__all__: list[str] = []

# Threads of numpy's products that wait for the next one take a core from the network, and encoding
# falls to two thirds. Only where numpy is not loaded yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
