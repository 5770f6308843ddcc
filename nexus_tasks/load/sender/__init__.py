"""The process that talks to the server: connections, stamps, and nothing that could delay a stamp.

What arrives is stamped and kept as it is. Of HTTP only as much is read here as tells where an answer ends;
everything else (framing, events, JSON) is done by the process that started this one, from the bytes and the
stamps that it gets when a request has ended.

Moments are seconds of ``time.perf_counter``, which all processes of a machine share; the wall clock plays no part.
Modules in here import httptools, msgspec, uvloop and the standard library alone, so that the start is short.
"""
