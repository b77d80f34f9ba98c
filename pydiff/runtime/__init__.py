"""Exported folders on ONNX Runtime, NumPy and the native core, without torch: see `open_exported`."""
