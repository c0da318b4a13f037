"""A loss that does not return sums is refused before it trains."""

import jax.numpy as jnp
import pytest

from jaxdp.errors import UserError
from jaxdp.tasks import LossSums
from jaxdp.tasks.model_functions import check_sums

ONE = jnp.ones(())


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        (None, r"loss must return jaxdp.tasks.LossSums\(loss, weight, metrics\), found None"),
        ((ONE, ONE), r"loss must return jaxdp.tasks.LossSums"),
        (LossSums(jnp.ones(3), ONE, {}), r"LossSums.loss must be one number, .*found the shape \[3\]"),
        (LossSums(ONE, jnp.ones(3), {}), r"LossSums.weight must be one number"),
        (LossSums(ONE, ONE, {"accuracy": ONE}), r"the metric 'accuracy' must be a pair of numbers"),
        (LossSums(ONE, ONE, {"accuracy": (jnp.ones(2), ONE)}), r"the metric 'accuracy' must be a pair of numbers"),
    ],
)
def test_what_is_no_sum_is_refused(sums, message):
    with pytest.raises(UserError, match=message):
        check_sums("loss", sums)


def test_sums_pass():
    check_sums("loss", LossSums(ONE, 2.0, {"accuracy": (ONE, 1.0)}))
