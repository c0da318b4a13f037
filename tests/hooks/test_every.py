"""Step-based trigger."""

import pytest

from jaxdp.hooks.every import Every


@pytest.mark.parametrize(
    ("every", "due"),
    [
        (Every(3), [3, 6, 9]),
        (Every(3, last_step=10), [3, 6, 9, 10]),
        (Every(5, last_step=10), [5, 10]),
        (Every(0), []),
        (Every(0, last_step=10), [10]),
    ],
)
def test_due_at_multiples_and_at_the_end(every, due):
    assert [step for step in range(1, 11) if every(step)] == due
