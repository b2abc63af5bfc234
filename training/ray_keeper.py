"""``python -m training.ray_keeper ROOT NAME``: waits for a local Ray's driver, however it ends.

Started with each local Ray, in a session of its own. A driver that is killed (SIGKILL, out of
memory) cannot end its Ray; its keeper does, within a second or two. It knows nothing of Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path

from training.ray_folders import await_driver

if __name__ == "__main__":
    await_driver(Path(sys.argv[1]), sys.argv[2])
