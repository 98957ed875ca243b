"""The command line: parse, call `onnxslim1x1.api`, print."""
