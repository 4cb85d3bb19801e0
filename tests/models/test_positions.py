"""Position codes and anchors, against values measured on the published implementation."""

import pytest
import torch

from rtdetr.models.positions import inverse_sigmoid, make_anchors, sine_position_code

CPU = torch.device("cpu")


def test_inverse_sigmoid_is_finite_at_the_ends() -> None:
    x = torch.tensor([0, 1e-6, 0.25, 0.5, 1, 1.2])
    expected = torch.tensor([-11.512925, -11.512924, -1.098612, 0.0, 11.512925, 11.512925])
    torch.testing.assert_close(inverse_sigmoid(x), expected, rtol=0, atol=1e-5)


def test_position_code_of_a_square_map() -> None:
    code = sine_position_code(20, 20, 256, 10000.0, CPU)[0]
    dims = [0, 1, 64, 128, 129, 192]
    torch.testing.assert_close(code[1, dims], torch.tensor([0, 0, 1, 0.841471, 0.761720, 0.540302]), rtol=0, atol=1e-5)
    torch.testing.assert_close(code[20, dims], torch.tensor([0.841471, 0.761720, 0.540302, 0, 0, 1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 3), (1, 7)])
def test_position_code_of_a_rectangle_depends_on_the_token_s_own_row_and_column(height: int, width: int) -> None:
    code = sine_position_code(height, width, 8, 10000.0, CPU)[0].unflatten(0, (height, width))
    side = max(height, width)
    square = sine_position_code(side, side, 8, 10000.0, CPU)[0].unflatten(0, (side, side))
    torch.testing.assert_close(code, square[:height, :width], rtol=0, atol=0)


def test_anchors_at_640() -> None:
    anchors, valid = make_anchors(((80, 80), (40, 40), (20, 20)), CPU)
    assert anchors.shape == (1, 8400, 4)
    assert valid.sum() == 8084
    assert torch.isinf(anchors[0, 0]).all()
    for token, expected in {
        81: (-3.9576, -3.9576, -2.9444, -2.9444),
        6400: (-4.3694, -4.3694, -2.1972, -2.1972),
        8000: (-3.6636, -3.6636, -1.3863, -1.3863),
    }.items():
        torch.testing.assert_close(anchors[0, token], torch.tensor(expected), rtol=0, atol=1e-4)


def test_constants_of_float64() -> None:
    for make, arguments in (
        (lambda *a: make_anchors(*a)[0], (((8, 12), (4, 6)), CPU)),
        (sine_position_code, (4, 6, 16, 10000.0, CPU)),
    ):
        narrow, wide = make(*arguments), make(*arguments, torch.float64)
        assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(wide.float(), narrow, atol=1e-6, rtol=1e-6)
        assert not torch.equal(wide, narrow.double())


def test_anchors_of_a_rectangle_stand_at_their_tokens() -> None:
    anchors, _ = make_anchors(((4, 8),), CPU)
    centers = anchors[0, :, :2].sigmoid().unflatten(0, (4, 8))
    torch.testing.assert_close(centers[2, 5], torch.tensor([5.5 / 8, 2.5 / 4]), rtol=0, atol=1e-6)


def test_cached_constants_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        anchors, valid = make_anchors(((7, 9),), CPU)
        code = sine_position_code(7, 9, 16, 10000.0, CPU)
    assert not anchors.is_inference()
    x = torch.ones(1, 63, 16, requires_grad=True)
    ((x * valid) * code).sum().backward()
    assert x.grad is not None
