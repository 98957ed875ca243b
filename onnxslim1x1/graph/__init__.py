"""ONNX graphs: loading, shapes, finding layers, folding, rewriting and saving."""
