"""The task by the shapes of a model's outputs."""

import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime import tasks
from onnxslim1x1.runtime.tasks import choose, require_task

IMAGES = (2, 3, 64, 48)


def chosen(asked="auto", inputs=IMAGES, floats=None, rows=2, **outputs):
    return choose(asked, inputs={"x": inputs}, outputs=outputs, rows=rows,
                  floats=list(outputs) if floats is None else floats)


@pytest.mark.parametrize(("task", "inputs", "outputs"), [
    ("classification", IMAGES, {"y": (2, 1000)}),
    ("classification", IMAGES, {"y": (2, 1000, 1, 1)}),
    ("classification", IMAGES, {"features": (2, 512, 7, 7), "y": (2, 10)}),
    ("image", IMAGES, {"y": (2, 3, 128, 96)}),
    ("image", (2, 64, 48, 3), {"y": (2, 64, 48, 3)}),
    ("image", (2, 1, 64, 48), {"y": (2, 1, 64, 48)}),
    ("detection", IMAGES, {"scores": (2, 4420, 2), "boxes": (2, 4420, 4)}),
    ("detection", IMAGES, {"output0": (2, 84, 8400)}),
    ("detection", IMAGES, {"output0": (2, 84, 34000)}),
    ("detection", IMAGES, {"output0": (2, 25200, 85)}),
    ("segmentation", IMAGES, {"y": (2, 21, 64, 48)}),
    ("segmentation", IMAGES, {"y": (2, 1, 64, 48)}),
    ("audio", (2, 16000), {"y": (2, 16000)}),
    ("audio", (2, 1, 16000), {"y": (2, 2, 16000)}),
    ("regression", IMAGES, {"y": (2, 1)}),
    ("regression", IMAGES, {"y": ()}),
    ("regression", IMAGES, {"y": (2, 512, 2, 2)}),
    ("regression", IMAGES, {"tokens": (2, 197, 768)}),
    ("regression", IMAGES, {"letters": (2, 40, 6625)}),
])
def test_auto(task, inputs, outputs):
    found = chosen(inputs=inputs, **outputs)
    assert found.task == task
    assert found.metrics
    assert found.reason.startswith("output ")


def test_whole_numbers_are_no_scores_but_masks():
    assert chosen(y=(2, 10), floats=[]).task == "regression"
    assert chosen(y=(2, 64, 48), floats=[]).task == "segmentation"


def test_scores_of_something_else_than_the_images_are_no_classes():
    assert chosen(y=(77, 10)).task == "regression"


def test_what_is_asked_for_counts():
    found = chosen("regression", y=(2, 10))
    assert (found.task, found.reason, found.outputs) == ("regression", "as asked for", ("y",))
    assert chosen("image", inputs=(2, 1, 64, 48), y=(2, 3, 64, 48)).task == "image"


@pytest.mark.parametrize("task", ["classification", "image", "detection", "segmentation"])
def test_what_does_not_fit_is_refused(task):
    with pytest.raises(OptionError, match=rf"--task {task}: no output has a shape for it \(y 2x5x6\)"):
        chosen(task, y=(2, 5, 6))


def test_unknown_tasks_are_refused():
    with pytest.raises(OptionError, match="--task classify: unknown; choose from auto, classification"):
        require_task("classify")


def test_without_scikit_image_there_is_a_way_out(monkeypatch):
    monkeypatch.setattr(tasks, "has_ssim", lambda: False)
    with pytest.raises(OptionError, match=r"--task image: needs scikit-image; pip install 'onnxslim1x1\[images\]'"):
        require_task("image")
    require_task("auto")
    assert chosen(y=IMAGES).notes == (tasks.NO_SSIM,)
    assert chosen(y=(2, 10)).notes == ()
