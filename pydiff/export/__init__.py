"""Models as folders that run without torch: `export`. ValueError says what to install where a package is missing."""

from pydiff._optional import optional

for _name in ("torch", "onnx", "onnxscript", "onnxruntime"):
    optional(_name, "pydiff-engine[export]", "exporting a model")

from pydiff.export.model import export  # noqa: E402

__all__ = ["export"]
