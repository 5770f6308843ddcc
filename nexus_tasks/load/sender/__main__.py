"""Start a sender process.

    python -m nexus_tasks.load.sender FD

The generator starts it, and speaks with it over the socket FD.
"""

import gc
import sys

if __name__ == "__main__":
    # Before the imports, whose objects it would look at again and again. Later a collection in the wrong moment
    # would delay stamps: the sweep collects what is young.
    gc.disable()

    from nexus_tasks.load.sender.process import main

    sys.exit(main(sys.argv[1:]))
