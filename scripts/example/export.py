"""An export step as projects have them: trains a small network for a moment, and exports it with its data.

    pip install torch scikit-learn onnxscript
    python export.py

Writes `model.onnx`, `calibration.npz` (images without labels) and `evaluation.npz` (other images, with labels) into
the current folder. What comes after it is in the README under "In your pipeline".
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED, EPOCHS, BATCH = 0, 6, 64
SIDE_FACTOR = 2  # 8 x 8 pixels become 16 x 16


def network() -> nn.Sequential:
    """Convolutions that are wider than the task needs, as those of most networks are."""
    def unit(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*unit(1, 32, 3), *unit(32, 96, 3), nn.MaxPool2d(2), *unit(96, 96, 5), *unit(96, 96, 3),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of 0..255, (N, 16, 16, 1), and their classes."""
    data = load_digits()
    pixels = np.kron(data.images / 16, np.ones((SIDE_FACTOR, SIDE_FACTOR)))
    return np.round(255 * pixels).astype(np.uint8)[..., None], data.target.astype(np.int64)


def as_input(images: NDArray[np.uint8]) -> Tensor:
    """What the network reads, (N, 1, 16, 16) in 0..1: the preset `unit` of onnxslim1x1."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))


def train(net: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """A few epochs of Adam."""
    inputs, targets = as_input(images), torch.from_numpy(labels)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(BATCH):
            loss = nn.functional.cross_entropy(net(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    torch.manual_seed(SEED)
    images, labels = digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=450, random_state=SEED, stratify=labels)
    net = network()
    train(net, train_images, train_labels)
    net.eval()
    with torch.no_grad():
        right = (net(as_input(test_images)).argmax(1).numpy() == test_labels).mean()
    torch.onnx.export(net, (as_input(test_images[:2]),), "model.onnx", input_names=["images"], output_names=["logits"],
                      dynamic_shapes={"input": {0: torch.export.Dim("N")}}, dynamo=True, external_data=False)
    np.savez_compressed("calibration.npz", images=train_images[:300])
    np.savez_compressed("evaluation.npz", images=test_images, labels=test_labels)
    print(f"wrote model.onnx, which gets {100 * right:.1f} % of {len(test_labels)} images right")


if __name__ == "__main__":
    main()
