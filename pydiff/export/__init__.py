"""Models as folders that run without torch: `export`. It needs torch, onnx, onnxscript and onnxruntime."""

from pydiff.export.model import export

__all__ = ["export"]
