"""Losses inside autocast are computed in float32."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lineament.train.precision import in_float32  # noqa: E402


@in_float32
def product(a: torch.Tensor, b: torch.Tensor, *, times: int = 1) -> torch.Tensor:
    """The matrix product."""
    return times * (a @ b)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_products_have_the_bits_of_floats(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 50).to(kind), torch.randn(50, 4).to(kind)
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = product(a, b=b, times=2), 2 * (a @ b)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 2 * (a.float() @ b.float()))
    assert not torch.equal(plain.float(), found)


def test_other_tensors_stay_as_they_are() -> None:
    @in_float32
    def kinds(*values: torch.Tensor) -> list[torch.dtype]:
        """The dtypes of tensors."""
        return [value.dtype for value in values]

    assert kinds(torch.zeros(1, dtype=torch.int64), torch.zeros(1).double()) == [torch.int64, torch.float64]
    assert kinds.__doc__ == "The dtypes of tensors."
