"""The model Triton runs for one bundle. ``recsys publish`` copies this file beside its config.

Triton's Python interpreter sees neither ``PYTHONPATH`` nor the virtual environment, so the folders
to import from are written in here, and nothing else is done before they are in place.
"""

import atexit
import site
import sys

PYTHON_PATHS: tuple[str, ...] = ()

_before = list(sys.path)
for _path in PYTHON_PATHS:
    site.addsitedir(_path)  # not only sys.path: an editable install hangs on a .pth file
_added = [path for path in sys.path if path not in _before]
sys.path[:] = _added + _before

from serving.model_repository.gentle_start import TritonPythonModel, leave_at_once  # noqa: E402

atexit.register(leave_at_once)

__all__ = ["TritonPythonModel"]
