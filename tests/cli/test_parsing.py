"""Every spelling of shapes, sizes and numbers that people type, and clear errors for the rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.cli.parsing import (
    parse_dims,
    parse_floats,
    parse_fraction,
    parse_numbers,
    parse_ranks,
    parse_shape,
    parse_size,
    parse_sizes,
)
from onnxslim1x1.errors import OptionError

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=100)


def refused(function, *arguments):
    """The one-line message of an `OptionError`."""
    with pytest.raises(OptionError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- several numbers ----

@pytest.mark.parametrize(("text", "numbers"), [
    ("0", (0,)), ("1,2", (1, 2)), (" 8 , 1,16 ", (8, 1, 16)), ("1024", (1024,))])
def test_numbers(text, numbers):
    assert parse_numbers("--threads", text) == numbers


@pytest.mark.parametrize("text", ["", "one", "1;2", "1,,2", "-1", "1.5", "²", "99999999999999999999"])
def test_what_is_no_list_of_numbers(text):
    assert refused(parse_numbers, "--batch", text).startswith(f"--batch {text}: cannot be read; write numbers joined")


def test_numbers_beyond_the_largest():
    assert refused(parse_numbers, "--threads", "1,1025") == "--threads 1,1025: at most 1024"


# ---- shapes ----

@pytest.mark.parametrize("text", [
    "x:1,3,224,192", "x:1x3x224x192", "x:[1,3,224,192]", "x:[1x3x224x192]", "x: 1, 3, 224, 192", "x:[ 1, 3, 224, 192 ]",
    " x:1,3,224,192 ", "x:1 x 3 x 224 x 192", "x:1,3x224,192"])
def test_shapes_in_every_spelling(text):
    assert parse_shape(text) == ("x", (1, 3, 224, 192))


@pytest.mark.parametrize("text", ["1,3,224,192", "1x3x224x192", "[1,3,224,192]", " [1, 3, 224, 192] "])
def test_shapes_without_a_name(text):
    assert parse_shape(text) == ("", (1, 3, 224, 192))


@pytest.mark.parametrize(("text", "name", "shape"), [
    ("input:0:1,3,8,6", "input:0", (1, 3, 8, 6)), ("a/b.c:7", "a/b.c", (7,)), ("x:5", "x", (5,)), ("5", "", (5,)),
    ("serving_default_x:0:1x2", "serving_default_x:0", (1, 2)), ("x y:2,3", "x y", (2, 3)), ("x:0,3", "x", (0, 3)),
    ("größe:2,3", "größe", (2, 3)), ("x:007,3", "x", (7, 3))])
def test_names_of_inputs_may_hold_anything(text, name, shape):
    assert parse_shape(text) == (name, shape)


@DRAWN
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.sampled_from(",x"), st.booleans(),
       st.sampled_from(["x", "input_0", "a:0", "net/image", ""]))
def test_shapes_go_there_and_back(sizes, separator, brackets, name):
    body = separator.join(map(str, sizes))
    text = f"[{body}]" if brackets else body
    assert parse_shape(f"{name}:{text}" if name else text) == (name, tuple(sizes))


@pytest.mark.parametrize("text", [
    "", "x", "x:", "x:a,b", "x:1,,3", "x:1,3,", "x:-1,3,8,8", "x:1.5,3", "1;3", "x:1*3", "x:(1,3)", "x=1,3", ":",
    "x:[]", "x:1 3 8"])
def test_shapes_that_cannot_be_read(text):
    assert refused(parse_shape, text) == f"--input-shape {text}: cannot be read; write name:1,3,224,224"


# ---- dimensions ----

@pytest.mark.parametrize(("texts", "dims"), [
    ([], {}), (["batch=1"], {"batch": 1}), (["batch=1,height=224"], {"batch": 1, "height": 224}),
    (["batch=1", "height=224"], {"batch": 1, "height": 224}), (["batch=1, height=224"], {"batch": 1, "height": 224}),
    (["batch = 1"], {"batch": 1}), (["a=b=3"], {"a=b": 3}), (["N=1", "N=2"], {"N": 2}),
    (["floor(H/2)=5"], {"floor(H/2)": 5}), (["unk__0=16"], {"unk__0": 16})])
def test_dims_in_every_spelling(texts, dims):
    assert parse_dims(texts) == dims


@pytest.mark.parametrize("text", [
    "", "batch", "batch=", "=1", "batch=0", "batch=-1", "batch=1.5", "batch=one", "batch:1", "batch=1,", "batch=²",
    "N=1x2", "batch=1e3"])
def test_dims_that_cannot_be_read(text):
    assert "cannot be read; write name=size, such as batch=1" in refused(parse_dims, [text])


# ---- ranks ----

@pytest.mark.parametrize(("texts", "ranks"), [
    ([], {}), (["conv=32"], {"conv": 32}), (["a/b.c:0=7", "d=8"], {"a/b.c:0": 7, "d": 8}), (["a=b=3"], {"a=b": 3}),
    (["conv=-1"], {"conv": -1}), (["conv=0"], {"conv": 0}), (["a layer=5"], {"a layer": 5})])
def test_ranks(texts, ranks):
    assert parse_ranks(texts) == ranks


@pytest.mark.parametrize("text", ["", "conv", "conv=", "=32", "conv=3.5", "conv=x", "conv:32", "conv=1,2", "conv=--3",
                                  "conv=²"])
def test_ranks_that_cannot_be_read(text):
    assert refused(parse_ranks, [text]) == f"--rank {text}: cannot be read; write LAYER=RANK, such as conv2=32"


# ---- sizes ----

@pytest.mark.parametrize(("text", "sizes"), [
    ("5", (5,)), ("5x3", (5, 3)), ("5,3", (5, 3)), ("14x11x480", (14, 11, 480)), (" 5 x 3 ", (5, 3)), ("0", (0,)),
    ("5x3,7", (5, 3, 7))])
def test_sizes(text, sizes):
    assert parse_sizes("--kernel", text) == sizes


@pytest.mark.parametrize("text", ["", "x", "5x", "x5", "-5", "5.5", "5x-3", "five", "5 3", "5xx3", "[5]", "²"])
def test_sizes_that_cannot_be_read(text):
    assert refused(parse_sizes, "--kernel", text).startswith(f"--kernel {text}: cannot be read; ")


@pytest.mark.parametrize(("text", "size"), [("256", 256), ("224x192", (224, 192)), ("224,192", (224, 192)), ("0", 0)])
def test_one_side_or_two(text, size):
    assert parse_size("--resize", text) == size


@pytest.mark.parametrize("text", ["1x2x3", "1,2,3,4"])
def test_more_than_two_sides(text):
    assert refused(parse_size, "--crop", text) == f"--crop {text}: give one side or HEIGHTxWIDTH"


# ---- numbers ----

@pytest.mark.parametrize(("text", "numbers"), [
    (".485,.456,.406", (0.485, 0.456, 0.406)), ("0.5", (0.5,)), ("104, 117, 123", (104.0, 117.0, 123.0)),
    ("-1,1", (-1.0, 1.0)), ("1e-3", (0.001,))])
def test_floats(text, numbers):
    assert parse_floats("--mean", text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", ",1", "1;2", "1,2,x", "1 2", "0x1"])
def test_floats_that_cannot_be_read(text):
    assert refused(parse_floats, "--mean", text) == f"--mean {text}: cannot be read; write numbers joined by commas"


@pytest.mark.parametrize(("text", "number"), [
    ("1/255", 1 / 255), ("0.00392", 0.00392), ("2", 2.0), (" 1 / 4 ", 0.25), ("1e-2", 0.01), ("0.5/0.25", 2.0),
    ("-1/2", -0.5)])
def test_fractions(text, number):
    assert parse_fraction("--scale", text) == number


@pytest.mark.parametrize("text", ["", "a", "1/0", "1/2/3", "/255", "1//2", "1/x", "1,5", "1/0.0", "1/"])
def test_fractions_that_cannot_be_read(text):
    assert refused(parse_fraction, "--scale", text) == (
        f"--scale {text}: cannot be read; write a number or a fraction such as 1/255")
