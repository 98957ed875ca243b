"""What onnxruntime does with a model: time, outputs, statistics."""
