"""List the ONNX operators that TensorRT's parser documents, by release; names alone.

From docs/operators.md of onnx-tensorrt, at its branches for 8.6, 10.0 and 10.1.
"""

from __future__ import annotations

_SINCE_8_6 = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization "
    "Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum "
    "DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten "
    "Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool "
    "Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity If "
    "ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less "
    "LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean "
    "MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu "
    "Pad ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform "
    "RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
    "ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu "
    "Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split "
    "Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample "
    "Where Xor "
)
_SINCE_10 = "CastLike DeformConv Gelu Hardmax Mish"
_DATA_DEPENDENT = "NonMaxSuppression NonZero"


def documented(major: int) -> frozenset[str] | None:
    """Operators that a major release takes; None where its own list was not at hand."""
    if major > 10:
        return None
    return frozenset((_SINCE_8_6 if major < 10 else f"{_SINCE_8_6} {_SINCE_10}").split())


DATA_DEPENDENT = frozenset(_DATA_DEPENDENT.split())
"""Operators whose output is as long as the data says, so that no output can be preallocated."""
