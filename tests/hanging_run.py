"""`jaxdp` with a fourth step that never ends, as when a peer in a collective is gone."""

import sys
import threading

from jaxdp.cli.main import main
from jaxdp.hooks.preemption import Preemption


def hang_for_ever():
    threading.Event().wait()


def hang_before(step):
    asked = iter(range(1, step + 1))
    request = Preemption.request

    def hanging(hook):
        if next(asked) == step:
            hang_for_ever()
        return request(hook)

    Preemption.request = hanging


if __name__ == "__main__":
    hang_before(5)  # the numbers of step 3 are read behind the dispatch of step 4
    sys.exit(main())
