"""What llama.cpp's own reader makes of GGUF headers: run as a process, since its assertions end one.

    python -m tests.llama_gguf LIBGGML_BASE <<< '{"files": [PATH, …], "types": [NUMBER, …]}'
        {"files": [[data offset, tensors], or null where it refuses, …], "types": [[name, elements, bytes], …]}

Elements and bytes are those of a block.

A type must be one that the library has.
"""

from __future__ import annotations

import ctypes
import json
import sys


class Params(ctypes.Structure):
    """gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    asked = json.load(sys.stdin)
    read = library.gguf_init_from_file
    read.argtypes, read.restype = [ctypes.c_char_p, Params], ctypes.c_void_p
    for name, result in (("gguf_get_data_offset", ctypes.c_size_t), ("gguf_get_n_tensors", ctypes.c_int64)):
        getattr(library, name).argtypes, getattr(library, name).restype = [ctypes.c_void_p], result
    library.gguf_free.argtypes = [ctypes.c_void_p]
    library.ggml_blck_size.restype, library.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    files = []
    for path in asked["files"]:
        header = read(path.encode(), Params(True, None))
        files.append([library.gguf_get_data_offset(header), library.gguf_get_n_tensors(header)] if header else None)
        if header:
            library.gguf_free(header)
    library.ggml_type_name.restype = ctypes.c_char_p
    types = [
        [library.ggml_type_name(number).decode(), library.ggml_blck_size(number), library.ggml_type_size(number)]
        for number in asked["types"]
    ]
    json.dump({"files": files, "types": types}, sys.stdout)


if __name__ == "__main__":
    main()
