"""``python -m onnxslim1x1``."""

from onnxslim1x1.cli.quick import main

main()
