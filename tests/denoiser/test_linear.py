"""Each linear part: nothing before training, then linear, and local or global as it should be."""

from __future__ import annotations

import pytest
import torch

from metavoxel.denoiser.linear import Alone, Effect, LinearParts, Neighbourhood, ReadOut

GRIDS = [(6, 4), (4, 6, 5)]


def test_before_training_they_say_nothing() -> None:
    parts = LinearParts(4, 2, (6, 4), {"age": (1, 2), "sex": (2, 2)}, 8, alone=True)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    z = {"age": torch.randn(3, 1), "sex": torch.rand(3, 2)}
    known, unseen = {"age": torch.rand(3), "sex": torch.rand(3)}, torch.rand(3)
    terms = parts.scalars(images, z, emb, known, unseen, ["age", "sex"])
    assert {v: x.shape for v, x in terms.items()} == {"age": (3, 2), "sex": (3, 2)}
    assert not any(bool(x.any()) for x in terms.values())
    fields = parts.fields(images, z, emb)
    assert fields.shape == (3, 2, 6, 4)
    assert not fields.any()


def test_a_scalar_s_term_adds_what_images_and_other_scalars_say_of_it() -> None:
    parts = LinearParts(4, 2, (6, 4), {"age": (1, 2), "sex": (2, 2)}, 8, alone=True)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    z = {"age": torch.randn(3, 1), "sex": torch.rand(3, 2)}
    other = {"age": z["age"], "sex": torch.rand(3, 2)}
    known, unseen = {"age": torch.rand(3), "sex": torch.rand(3)}, torch.tensor([0.0, 0.5, 1.0])
    torch.nn.init.normal_(parts.regressions["age"].weight)
    terms, changed = (
        parts.scalars(images, x, emb, known, unseen, ["age", "sex"]) for x in (z, other)
    )
    assert not torch.allclose(terms["age"], changed["age"])
    assert not terms["sex"].any()
    torch.nn.init.normal_(parts.read_outs["age"].weight)
    both = parts.scalars(images, z, emb, known, unseen, ["age"])["age"]
    torch.testing.assert_close(both - terms["age"], parts.read_outs["age"](images))
    torch.nn.init.normal_(parts.alone["age"].weight)
    three = parts.scalars(images, z, emb, known, unseen, ["age"])["age"]
    alone = parts.alone["age"](z, known)
    torch.testing.assert_close(three - both, unseen[:, None] * alone)
    assert not (three - both)[0].any()  # where the images are seen


def test_alone_scalars_speak_of_others_by_their_values_and_by_being_known() -> None:
    part = Alone("age", {"age": 1, "sex": 2, "height": 1}, 2)
    torch.nn.init.normal_(part.weight)
    z = {"age": torch.randn(5, 1), "sex": torch.rand(5, 2), "height": torch.randn(5, 1)}
    known = {v: torch.rand(5) for v in z}
    said = part(z, known)
    assert said.shape == (5, 2)
    torch.testing.assert_close(part(z | {"age": torch.randn(5, 1)}, known), said)
    torch.testing.assert_close(part(z, known | {"age": torch.rand(5)}), said)
    assert not torch.allclose(part(z | {"height": torch.randn(5, 1)}, known), said)
    assert not torch.allclose(part(z, known | {"height": torch.rand(5)}), said)
    # Linear, up to the constant.
    none = {v: torch.zeros_like(x) for v, x in z.items()}, {v: torch.zeros(5) for v in z}
    twice = part({v: 2 * x for v, x in z.items()}, {v: 2 * x for v, x in known.items()})
    torch.testing.assert_close(twice - part(*none), 2 * (said - part(*none)))
    only = Alone("age", {"age": 1}, 2)
    assert only({"age": torch.randn(5, 1)}, {"age": torch.rand(5)}).shape == (5, 2)


def test_without_scalars_there_is_the_neighbourhood_alone() -> None:
    parts = LinearParts(4, 2, (6, 4), {}, 8)
    torch.nn.init.normal_(parts.neighbourhood.out.weight)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    torch.testing.assert_close(parts.fields(images, {}, emb), parts.neighbourhood(images, emb))


def test_a_read_out_is_a_linear_function_of_every_element() -> None:
    read = ReadOut(2 * 3 * 4, 5)
    images = torch.randn(7, 2, 3, 4)
    torch.nn.init.normal_(read.weight)
    expected = torch.einsum("bchw,ochw->bo", images, read.weight.view(5, 2, 3, 4)) / 24**0.5
    torch.testing.assert_close(read(images), expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_neighbourhood_is_linear_in_the_image_and_reaches_the_neighbours_alone(
    grid: tuple[int, ...],
) -> None:
    part = Neighbourhood(len(grid), 2, 1, 8)
    torch.nn.init.normal_(part.out.weight)
    a, b = torch.randn(2, 3, 2, *grid)
    emb, other = torch.randn(2, 3, 8)
    both = part(2 * a - b, emb)
    torch.testing.assert_close(both, 2 * part(a, emb) - part(b, emb), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(part(a, emb), part(a, other))
    spot = torch.zeros(3, 2, *grid)
    spot[:, 0, *(0 for _ in grid)] = 1
    near = torch.zeros(3, 1, *grid, dtype=torch.bool)
    near[:, 0, *(slice(2) for _ in grid)] = True
    assert torch.equal(part(spot, emb) != 0, near)


@pytest.mark.parametrize("grid", [(), *GRIDS])
def test_an_effect_is_linear_in_the_scalars_and_has_its_places(grid: tuple[int, ...]) -> None:
    part = Effect(2, 3, grid, 8)
    a, b = torch.randn(2, 5, 2)
    emb, other = torch.randn(2, 5, 8)
    torch.nn.init.normal_(part.weight)
    both = part(2 * a - b, emb)
    torch.testing.assert_close(both, 2 * part(a, emb) - part(b, emb), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(part(a, emb), part(a, other))
    with torch.no_grad():
        part.weight.zero_()
        part.weight[1, 0, *(0 for _ in grid)] = 1  # of the second scalar, on one element
    touched = part(a, emb)
    assert bool(touched[:, 0, *(0 for _ in grid)].all())
    assert int(touched.count_nonzero()) == len(a)
