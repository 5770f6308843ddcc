"""Task modules of Llama Nexus.

A file beside this one is a command, run as ``python -m nexus_tasks.<command>`` or ``nox -s <command>``; a folder is a
room, a noun that commands and rooms above it import.
"""
