"""``recsys forget`` that dies before its STEP-th deed (or never): ``… SAID DURABLE ARGUMENTS…``.

``SAID`` counts the lines it says, ``DURABLE`` the durable steps on disk; 0 is never.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from recsys.erasure import cli
from recsys.erasure.forget import Forgetting
from tests.events.sink_worker import die_before_step


class Dying(Forgetting):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        said, self._left = self._say, int(sys.argv[1])

        def say(line: str) -> None:
            said(line)
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        self._say = say


if __name__ == "__main__":
    cli.Forgetting = Dying  # type: ignore[misc]
    die_before_step(int(sys.argv[2]))
    sys.exit(cli.main(sys.argv[3:]))
