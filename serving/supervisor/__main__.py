"""``python -m serving.supervisor up|down|status|logs``."""

import sys

from serving.supervisor.cli import main

if __name__ == "__main__":
    sys.exit(main())
