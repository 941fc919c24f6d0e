"""What runs a frame count: ONNX Runtime or TensorRT."""
