"""How much the loss of a network depends on the outputs of its layers, measured on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.backward import Backward, backward
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shape
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.runtime.blas import limited_blas
from onnxslim1x1.runtime.calibration import Batches, fixed_batch, padded, with_outputs
from onnxslim1x1.runtime.compare import log_probabilities, looks_like_classifier
from onnxslim1x1.runtime.parts import Parts
from onnxslim1x1.runtime.session import Feeds, create_session, patient_options, run

Progress = Callable[[float], None]

_BATCH = 4  # gradients of all layers are held at once
_DRAWS = 2  # labels drawn per image
_SCALING = (32, 1 << 24)  # images, and values of an output, that its variances rest on at most


def output_weightings(model: Model, layers: Sequence[Layer], data: Batches, *, shapes: Mapping[str, Shape],
                      seed: int = 0, progress: Progress | None = None) -> dict[str, OutputWeighting]:
    """Covariance of the log-likelihood's gradient at the output of each layer, by layer output.

    Labels are drawn from the model's own softmax, so the covariance is the Fisher information (Martens 2020,
    section 5). For outputs that are no class scores the gradient is that of a random projection, which gives the
    Gauss-Newton matrix of the squared error relative to the output's variance (see `Parts`). Layers that no gradient
    reaches, behind operators without a rule, are left out of the result.

    Raises:
        RuntimeFailure: onnxruntime cannot run the model or its backward pass.
        ModelError: weights cannot be read.
    """
    outputs = [o.name for o in model.proto.graph.output if shapes.get(o.name)]
    made = backward(model, shapes, outputs=outputs, targets=[layer.output for layer in layers])
    if not made.gradients:
        return {}
    inner = [name for name in made.activations if name not in {i.name for i in model.proto.graph.input}]
    options = patient_options()
    forward = create_session(with_outputs(model, inner), options=options, where=model.where)
    reverse = create_session(made.model.SerializeToString(), options=options, where=f"gradients of {model.where}")
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys([*outputs, *inner]))
    sums: dict[str, NDArray[np.float64]] = {}
    images = 0
    fixed = fixed_batch(model)
    plain = [name for name in outputs if not looks_like_classifier(shapes[name])]
    parts = _parts(partial(run, forward, where=model.where), data, plain, fixed) if plain else {}
    with limited_blas(1):  # many small products: beside another busy process two threads took up to 250 times as long
        for batch in data.batches(fixed or _BATCH):
            count = len(next(iter(batch.values())))
            feeds = padded(batch, fixed)
            values = dict(feeds) | dict(zip(names, run(forward, feeds, outputs=names, where=model.where), strict=True))
            for _ in range(_DRAWS):
                drawn = {seed: _seed(np.asarray(values[n]), rng, parts.get(n)) for n, seed in made.seeds.items()}
                _add_gradients(sums, made, reverse, values | drawn, count)
            images += count
            if progress:
                progress(min(images / len(data), 1.0))
    return {name: OutputWeighting(covariance=total / (_DRAWS * images)) for name, total in sums.items()}


def _parts(forward: Callable[..., Sequence[NDArray[Any]]], data: Batches, outputs: Sequence[str],
           fixed: int) -> dict[str, Parts]:
    """How outputs divide, on the first images."""
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in outputs}
    images, most = 0, _SCALING[0]
    for batch in data.batches(fixed or _BATCH):
        count = len(next(iter(batch.values())))
        for name, values in zip(outputs, forward(padded(batch, fixed), outputs=outputs), strict=True):
            kept[name].append(values[:count])
            most = min(most, max(_SCALING[1] // max(values[0].size, 1), 2))
        images += count
        if images >= most:
            break
    return {name: Parts.of(np.concatenate(values)) for name, values in kept.items()}


def _add_gradients(sums: dict[str, NDArray[np.float64]], made: Backward, session: Any, values: Feeds,
                   count: int) -> None:
    """Add the products of the gradients of the first `count` images; the others only fill the batch."""
    feeds = {name: np.asarray(values[name], np.float32) for name in (*made.activations, *made.seeds.values())}
    wanted = {item.name for item in session.get_inputs()}
    found = run(session, {k: v for k, v in feeds.items() if k in wanted}, outputs=list(made.gradients.values()))
    for name, gradient in zip(made.gradients, found, strict=True):
        rows = np.moveaxis(gradient[:count], 1, -1).reshape(-1, gradient.shape[1])
        if np.isfinite(rows).all():
            sums[name] = sums.get(name, np.zeros((rows.shape[1],) * 2)) + rows.T @ rows


def _seed(output: NDArray[Any], rng: np.random.Generator, parts: Parts | None) -> NDArray[np.float32]:
    """Gradient of the loss with respect to an output of the model; `parts` of an output that is no class scores."""
    if parts is not None:
        signs = rng.choice(np.array([-1.0, 1.0]), size=output.shape)
        return parts.seeds(signs).astype(np.float32)
    scores = output.reshape(len(output), -1)
    probabilities = np.exp(log_probabilities(scores))
    cumulated = probabilities.cumsum(axis=1)
    labels = np.minimum((rng.random((len(output), 1)) * cumulated[:, -1:] > cumulated).sum(axis=1), scores.shape[1] - 1)
    onehot = np.zeros_like(probabilities)
    onehot[np.arange(len(output)), labels] = 1.0
    # of log p[label] with respect to probabilities, or of log softmax(z)[label] with respect to scores
    gradient = onehot / np.maximum(probabilities, 1e-6) if _is_distribution(scores) else onehot - probabilities
    shaped: NDArray[np.float32] = gradient.reshape(output.shape).astype(np.float32)
    return shaped


def _is_distribution(scores: NDArray[Any]) -> bool:
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=1, dtype=np.float64), 1.0, atol=1e-3))
