"""Measurements of what the README promises, each with its peer in the same run."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the stages of a pipeline
