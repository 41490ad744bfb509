"""Each linear part: nothing before training, then linear, and local or global as it should be."""

from __future__ import annotations

import pytest
import torch

from metavoxel.denoiser.linear import Effect, LinearParts, Neighbourhood, ReadOut

GRIDS = [(6, 4), (4, 6, 5)]


SCALARS = {"age": 1, "sex": 2}
OWN = {"age": (1, 1), "sex": (2, 0)}  # a head of each scalar: outputs that are linear, and others
JOINT = {"evidence": (6, 3)}  # one of all


@pytest.mark.parametrize("heads", [OWN, JOINT], ids=["each", "all"])
def test_before_training_they_say_nothing(heads: dict[str, tuple[int, int]]) -> None:
    parts = LinearParts(4, 2, (6, 4), SCALARS, heads, 8)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    z = {"age": torch.randn(3, 1), "sex": torch.rand(3, 2)}
    terms = parts.scalars(images, z, emb, heads)
    assert {v: x.shape for v, x in terms.items()} == {v: (3, sum(k)) for v, k in heads.items()}
    assert not any(bool(x.any()) for x in terms.values())
    term = parts.images(images, z, emb)
    assert term.shape == (3, 2, 6, 4)
    assert not term.any()


def test_a_scalar_s_term_adds_what_images_and_other_scalars_say_of_it() -> None:
    parts = LinearParts(4, 2, (6, 4), SCALARS, OWN, 8)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    z = {"age": torch.randn(3, 1), "sex": torch.rand(3, 2)}
    other = {"age": z["age"], "sex": torch.rand(3, 2)}
    torch.nn.init.normal_(parts.regressions["age"].get_parameter("weight"))
    terms, changed = (parts.scalars(images, x, emb, ["age", "sex"]) for x in (z, other))
    assert not torch.allclose(terms["age"], changed["age"])
    assert not terms["age"][:, 1:].any()  # of an output that is not linear
    assert not terms["sex"].any()
    torch.nn.init.normal_(parts.read_outs["age"].get_parameter("weight"))
    both = parts.scalars(images, z, emb, ["age"])["age"]
    torch.testing.assert_close((both - terms["age"])[:, :1], parts.read_outs["age"](images))


def test_evidence_of_all_scalars_is_of_the_images_alone() -> None:
    parts = LinearParts(4, 2, (6, 4), SCALARS, JOINT, 8)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    for weights in parts.parameters():
        torch.nn.init.normal_(weights)
    drawn = [{"age": torch.randn(3, 1), "sex": torch.rand(3, 2)} for _ in range(2)]
    first, second = (parts.scalars(images, z, emb, JOINT)["evidence"] for z in drawn)
    torch.testing.assert_close(first, second)
    assert first[:, :6].any() and not first[:, 6:].any()


def test_without_scalars_there_is_the_neighbourhood_alone() -> None:
    parts = LinearParts(4, 2, (6, 4), {}, {}, 8)
    torch.nn.init.normal_(parts.neighbourhood.out.weight)
    images, emb = torch.randn(3, 4, 6, 4), torch.randn(3, 8)
    torch.testing.assert_close(parts.images(images, {}, emb), parts.neighbourhood(images, emb))


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
