"""Speed beside PyTorch and ONNX Runtime; run as `python -m benchmarks`."""
