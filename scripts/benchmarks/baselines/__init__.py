"""Published ways to compress a convolutional model without training, on the footing of `onnxslim1x1.slim`.

All low-rank baselines get the same model, the same layers, the same grid of ranks, the same budget of MACs and, where
they look at data, the same images. `methods.METHODS` lists them; each runs in a process of its own (`worker`).
"""
