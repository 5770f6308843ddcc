"""Task modules of Llama Nexus.

A file beside this one is a command, run as ``python -m nexus_tasks.<command>`` or ``nox -s <command>``; a folder is a
room, a noun that commands and rooms above it import.
"""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Of a command: Ctrl-C while its imports run ends it as any program, and not with a traceback of some library.
    # `command_line` takes over from here.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
