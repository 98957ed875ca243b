"""Train the sample network on scikit-learn's digits and write everything in `sample_models/`.

    pip install -e '.[train]'
    python scripts/train_sample_model.py

The network is a GoogLeNet in small whose 3x3 and 5x5 branches read all channels of their module, as in the
inception module before its 1x1 reductions were added. Takes about three minutes on one core. The split and the
training are seeded: the same versions on the same kind of CPU write the same bytes, others a similar model.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from make_model import GraphBuilder

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

SIDE = 32
CLASSES = 10
EVALUATION_IMAGES = 450
CALIBRATION_IMAGES = 256
THREADS = 1  # the result must not depend on the cores of a machine: threads change the order of sums
MODEL, CALIBRATION, EVALUATION = "digits_googlenet.onnx", "digits_calibration.npz", "digits_evaluation.npz"


class Inception(NamedTuple):
    """Channels of one module: what it reads, and what each of its four branches gives."""

    inputs: int
    one: int
    three: int
    five: int
    pool: int

    @property
    def outputs(self) -> int:
        """Channels after the concatenation."""
        return self.one + self.three + self.five + self.pool


STEM = (32, 96)
MODULES = {
    "inception_a": Inception(inputs=96, one=32, three=64, five=48, pool=16),
    "inception_b": Inception(inputs=160, one=48, three=64, five=32, pool=16),
}
FEATURES = MODULES["inception_b"].outputs


class DigitsGoogLeNet(nn.Module):
    """Two 3x3 convolutions, two inception modules at 16x16, the mean of each channel, one dense layer.

    Layers have the names of the ONNX nodes; each convolution `NAME` is followed by the normalisation `NAME/bn`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unit("stem/conv1", 1, STEM[0], 3)
        self._unit("stem/conv2", *STEM, 3)
        for name, module in MODULES.items():
            self._unit(f"{name}/1x1", module.inputs, module.one, 1)
            self._unit(f"{name}/3x3", module.inputs, module.three, 3)
            self._unit(f"{name}/5x5", module.inputs, module.five, 5)
            self._unit(f"{name}/pool_proj", module.inputs, module.pool, 1)
        self.add_module("classifier", nn.Linear(FEATURES, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = functional.max_pool2d(self._apply_unit("stem/conv1", x), 2, 2)
        x = self._apply_unit("stem/conv2", x)
        for name in MODULES:
            pooled = functional.max_pool2d(x, 3, 1, padding=1)
            branches = [self._apply_unit(f"{name}/{kind}", x) for kind in ("1x1", "3x3", "5x5")]
            x = torch.cat([*branches, self._apply_unit(f"{name}/pool_proj", pooled)], dim=1)
        logits: Tensor = self.get_submodule("classifier")(x.mean(dim=(2, 3)))
        return logits

    def _unit(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))
        self.add_module(f"{name}/bn", nn.BatchNorm2d(outputs))

    def _apply_unit(self, name: str, x: Tensor) -> Tensor:
        return functional.relu(self.get_submodule(f"{name}/bn")(self.get_submodule(name)(x)))


def to_onnx(network: DigitsGoogLeNet) -> onnx.ModelProto:
    """The same network as an ONNX graph, with its BatchNormalization nodes left as they are."""
    state = {name: values.detach().numpy() for name, values in network.state_dict().items()}

    def trained(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = state[name]
        if values.shape != shape:
            raise ValueError(f"{name}: trained with shape {values.shape}, the graph wants {shape}")
        return values

    net = GraphBuilder("digits_googlenet", trained, batch_norm=True)

    def unit(x: str, name: str, channels: int, kernel: int) -> str:
        return net.relu(net.conv_norm(x, name, channels, kernel, norm=f"{name}/bn"), f"{name}/relu")

    x = unit(net.input("images", "N", (1, SIDE, SIDE)), "stem/conv1", STEM[0], 3)
    x = unit(net.max_pool(x, "stem/pool", 2, 2), "stem/conv2", STEM[1], 3)
    for name, module in MODULES.items():
        pooled = net.max_pool(x, f"{name}/pool", 3, 1, pad=1)
        branches = [
            unit(x, f"{name}/1x1", module.one, 1),
            unit(x, f"{name}/3x3", module.three, 3),
            unit(x, f"{name}/5x5", module.five, 5),
            unit(pooled, f"{name}/pool_proj", module.pool, 1),
        ]
        x = net.concat(branches, f"{name}/concat")
    x = net.flatten(net.global_pool(x, "global_pool"), "flatten")
    return net.build(net.dense(x, "classifier", CLASSES), "logits", "N")


def load_images() -> tuple[Images, Labels]:
    """All digits, enlarged from 8x8 (0..16) to 32x32 (0..255)."""
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    size, bicubic = (SIDE, SIDE), Image.Resampling.BICUBIC
    large = [np.asarray(Image.fromarray(image).resize(size, bicubic)) for image in small]
    return np.stack(large)[..., None], digits.target.astype(np.int64)


def to_input(images: Images) -> NDArray[np.float32]:
    """What the network reads: NCHW, pixels divided by 255."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def shifted(images: Tensor, most: int = 2) -> Tensor:
    """Each image moved by up to `most` pixels each way, zeros moving in."""
    padded = functional.pad(images, [most] * 4)
    offsets = torch.randint(0, 2 * most + 1, (len(images), 2)).tolist()
    pairs = zip(padded, offsets, strict=True)
    return torch.stack([image[:, top : top + SIDE, left : left + SIDE] for image, (top, left) in pairs])


def train(images: Images, labels: Labels, *, epochs: int, batch: int = 64) -> DigitsGoogLeNet:
    """Train on all given images; nothing is chosen by looking at others, so the last epoch is the result."""
    network = DigitsGoogLeNet()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = torch.from_numpy(to_input(images)), torch.from_numpy(labels)
    steps = len(x) // batch
    # A strong decay: what training does not use of the random initial weights is gone by the end, as it is in a
    # network that was trained for long.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * steps)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(len(x))[: steps * batch].reshape(steps, batch)
        for chosen in order:
            loss = functional.cross_entropy(network(shifted(x[chosen])), y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.1f} s", flush=True)
    network.eval()
    return network


def measure(model: Path, network: DigitsGoogLeNet, images: Images, labels: Labels) -> float:
    """Accuracy of the written file through onnxruntime, after checking its logits against torch."""
    x = to_input(images)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"images": x})[0]
    with torch.no_grad():
        reference = network(torch.from_numpy(x)).numpy()
    difference = float(np.abs(logits - reference).max())
    print(f"largest difference between onnxruntime and torch: {difference:.2e}")
    if difference > 1e-3:
        raise SystemExit(f"{model}: onnxruntime and torch disagree")
    return float((logits.argmax(axis=1) == labels).mean())


def costs(network: DigitsGoogLeNet) -> tuple[int, int]:
    """Trained values in the file, and multiply-accumulates of convolutions and dense layers for one image."""
    count = sum(v.numel() for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked"))
    macs = 0
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            side = SIDE if name == "stem/conv1" else SIDE // 2
            macs += layer.weight.numel() * side * side
        elif isinstance(layer, nn.Linear):
            macs += layer.weight.numel()
    return count, macs


def update_readme(folder: Path, *, accuracy: float, parameters: int, macs: int) -> None:
    """Print the figures and the table of files, and write them to the README where there is one."""
    correct = round(accuracy * EVALUATION_IMAGES)
    figures = [
        "| | |", "| --- | --- |",
        f"| accuracy on the evaluation images | {accuracy:.2%} ({correct} of {EVALUATION_IMAGES}) |",
        f"| parameters | {parameters:,} |",
        f"| multiply-accumulates per image | {macs:,} |",
    ]  # fmt: skip
    files = ["| file | bytes | sha256 |", "| --- | --- | --- |"]
    for name in (MODEL, CALIBRATION, EVALUATION):
        content = (folder / name).read_bytes()
        files.append(f"| `{name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |")
    print("\n".join([*figures, "", *files]))
    readme = folder / "README.md"
    if not readme.exists():
        return
    text = readme.read_text(encoding="utf-8")
    for block, lines in (("figures", figures), ("files", files)):
        begin, end = f"<!-- {block}: written by the script -->\n", "<!-- end -->"
        head, mark, rest = text.partition(begin)
        _, closing, tail = rest.partition(end)
        if not (mark and closing):
            raise SystemExit(f"{readme}: no block '{block}' to write to")
        text = head + mark + "\n".join(lines) + "\n" + closing + tail
    readme.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample network and write sample_models/.")
    default = Path(__file__).resolve().parent.parent / "sample_models"
    parser.add_argument("--output", type=Path, default=default, help="folder (default: sample_models)")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    images, labels = load_images()
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels, test_size=EVALUATION_IMAGES, stratify=labels, random_state=options.seed
    )
    network = train(train_images, train_labels, epochs=options.epochs)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(to_onnx(network), folder / MODEL)
    # The split is shuffled, so its first images are a random sample of the training images.
    np.savez_compressed(folder / CALIBRATION, images=train_images[:CALIBRATION_IMAGES])
    np.savez_compressed(folder / EVALUATION, images=held_images, labels=held_labels)
    accuracy = measure(folder / MODEL, network, held_images, held_labels)
    parameters, macs = costs(network)
    update_readme(folder, accuracy=accuracy, parameters=parameters, macs=macs)


if __name__ == "__main__":
    main()
