"""Say why TensorRT can't take a network, before its parser does; works without TensorRT.

The parser has the last word: what passes here may still be refused there.
"""

from __future__ import annotations

from engines.base import TensorSpec
from engines.errors import ModelError
from engines.onnxgraph import GraphFacts
from engines.tensorrt.operators import DATA_DEPENDENT, documented
from engines.tensorrt.release import Release

_OLDEST_OPSET = 9
_ELSEWHERE = "or load it with onnxruntime: before the device"


def check_graph(facts: GraphFacts, release: Release, where: str) -> None:
    """Refuse what a release does not document.

    Raises:
        ModelError: opset, operators, element types or shapes; the text has the remedy.
    """
    _check_opset(facts, release, where)
    if facts.external_data:
        raise ModelError(
            f"{where}: weights must lie in the ONNX file, got weights in other files; "
            "save it as one file with onnx.save(..., save_as_external_data=False)"
        )
    _check_operators(facts, release, where)
    _check_types(facts, release, where)
    for spec in facts.inputs:
        _check_axes(spec, where)


def _check_opset(facts: GraphFacts, release: Release, where: str) -> None:
    newest = release.newest_opset
    if facts.opset < _OLDEST_OPSET or (newest is not None and facts.opset > newest):
        raise ModelError(
            f"{where}: opset must be {_OLDEST_OPSET} to {newest or 'the newest'} for TensorRT "
            f"{release.text}, got {facts.opset}; export the network at opset 17"
        )


def _check_operators(facts: GraphFacts, release: Release, where: str) -> None:
    known = documented(release.major)
    if known is None:  # then the parser finds what is missing among ONNX's own operators
        unknown = sorted(name for name in facts.operators if "." in name)
    else:
        unknown = sorted(facts.operators.keys() - known)
    if unknown:
        seen = ", ".join(f"{name} (at {facts.operators[name]!r})" for name in unknown)
        raise ModelError(
            f"{where}: operators must be ones that TensorRT {release.text} takes, got {seen}; "
            f"export the network without them, {_ELSEWHERE}"
        )
    if free := sorted(facts.operators.keys() & DATA_DEPENDENT):
        raise ModelError(
            f"{where}: lengths of all tensors must follow from the inputs' shapes, got "
            f"{', '.join(free)}; export the network up to its raw boxes, {_ELSEWHERE}"
        )


def _check_types(facts: GraphFacts, release: Release, where: str) -> None:
    if facts.zero_points:
        raise ModelError(
            f"{where}: Q/DQ nodes must be signed with zero points of 0 for TensorRT, got others; "
            f"quantise the network for TensorRT, {_ELSEWHERE}"
        )
    unknown = sorted(facts.element_types - set(release.element_types))
    if "bfloat16" in unknown:
        raise ModelError(
            f"{where}: precision must be fp32, fp16 or int8 for TensorRT {release.text}, got bf16; "
            "build with precision fp16, or install TensorRT 10"
        )
    if unknown:
        raise ModelError(
            f"{where}: element types must be of {', '.join(release.element_types)} for TensorRT "
            f"{release.text}, got {', '.join(unknown)}; cast them when exporting, {_ELSEWHERE}"
        )
    for spec in facts.inputs:
        readers = facts.readers[spec.name]
        if spec.dtype.name == "uint8" and readers != {"Cast"}:
            raise ModelError(
                f"{where}: {spec.name} of uint8 must be read by Cast alone, got "
                f"{', '.join(sorted(readers)) or 'no reader'}; cast it to float first"
            )


def _check_axes(spec: TensorSpec, where: str) -> None:
    free = [axis for axis, length in enumerate(spec.shape) if length is None and axis > 0]
    if free or not spec.shape:
        raise ModelError(
            f"{where}: only the first axis, the batch, may be of any length, got {spec}; "
            f"export the network with a fixed length of axis {', '.join(map(str, free)) or '0'}"
        )
