"""The operators that an exported graph may have: ONNX's own, of the domain ai.onnx, and no other's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OPSETS = range(18, 25)  # versions of the domain whose graphs are opened

_SINCE = {  # operators by the version that has them first, those of 18 and before together
    18: """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Bernoulli BitShift
        BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Col2Im
        Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT
        DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike
        Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
        GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
        If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
        Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
        MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss
        NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow
        QLinearConv QLinearMatMul QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
        Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round STFT Scan ScatterElements
        ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
        SequenceMap Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign
        SpaceToDepth Split SplitToSequence Sqrt Squeeze StringNormalizer Sub Sum Tan Tanh TfIdfVectorizer
        ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
    """,
    19: "DeformConv",
    20: "AffineGrid Gelu ImageDecoder RegexFullMatch StringConcat StringSplit",
    23: "Attention RMSNormalization RotaryEmbedding",
    24: "Swish TensorScatter",
}
_FIRST = {name: version for version, names in _SINCE.items() for name in names.split()}


def check_operators(opsets: Mapping[str, int], operators: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError, by name, for a version that is not in OPSETS and for operators that it has not."""
    version = opsets.get("", 0)
    if version not in OPSETS:
        raise ValueError(f"it is of opset {version}; expected one of {OPSETS[0]} to {OPSETS[-1]}")
    for domain, name in sorted(operators):
        if domain:
            raise ValueError(f"it has the operator {name!r:.80} of {domain!r:.80}; expected those of ai.onnx alone")
        if _FIRST.get(name, version + 1) > version:
            raise ValueError(f"it has the operator {name!r:.80}, which ai.onnx has not in opset {version}")
