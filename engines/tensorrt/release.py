"""Say what a release of TensorRT can take and how it must be told; knows text and numbers alone.

8.6 chooses types itself where a flag allows it; 10 has strongly typed networks behind a flag; 11
has nothing else. So precision lives in the graph, and only these few lines differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import EngineUnavailable
from engines.onnxgraph import GraphFacts

_COMMON_TYPES = ("bool", "float16", "float32", "float64", "int32", "int64", "int8", "uint8")


@dataclass(frozen=True, slots=True)
class Release:
    """One release, such as 8.6.0."""

    major: int
    minor: int
    text: str

    @classmethod
    def parse(cls, text: str) -> Release:
        """Read a version.

        Raises:
            EngineUnavailable: it is older than 8.6.
        """
        major, minor = (int(n) for n in text.split(".")[:2])
        if (major, minor) < (8, 6):
            raise EngineUnavailable(
                f"tensorrt: version must be 8.6 or newer, got {text}; "
                "pip install 'streamer[tensorrt]'"
            )
        return cls(major, minor, text)

    @property
    def newest_opset(self) -> int | None:
        """Newest ONNX opset that its parser documents; None where the parser is asked itself."""
        return {8: 17, 11: 25}.get(self.major)

    @property
    def element_types(self) -> tuple[str, ...]:
        """Of tensors, as ONNX names them; 8.6 narrows int64 and float64."""
        return _COMMON_TYPES if self.major == 8 else ("bfloat16", *_COMMON_TYPES)

    @property
    def network_flags(self) -> tuple[str, ...]:
        """Members of NetworkDefinitionCreationFlag."""
        return {8: ("EXPLICIT_BATCH",), 9: ("EXPLICIT_BATCH",), 10: ("STRONGLY_TYPED",)}.get(
            self.major, ()
        )

    def builder_flags(self, facts: GraphFacts, *, version_compatible: bool) -> tuple[str, ...]:
        """Members of BuilderFlag to set."""
        flags = []
        if self.major < 10 and "float16" in facts.element_types:
            flags.append("FP16")
        if self.major < 10 and facts.quantised:
            flags.append("INT8")
        if version_compatible:
            flags.append("VERSION_COMPATIBLE")
        return tuple(flags)

    @property
    def preview_features(self) -> tuple[str, ...]:
        """Members of PreviewFeature to switch on: several contexts of one profile, usual since."""
        return ("PROFILE_SHARING_0806",) if self.major < 10 else ()

    def key(self, *, version_compatible: bool) -> str:
        """Part of an engine's key: which releases may run what this one builds."""
        return f"tensorrt {f'{self.major} compatible' if version_compatible else self.text}"
