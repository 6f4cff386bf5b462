"""Models for other runtimes: ONNX graphs, and folders that need no captioner."""
