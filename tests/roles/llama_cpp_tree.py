"""A small CMake project with the shape of llama.cpp's source tree, as an archive and as a git repository.

CMake options choose what happens to its build:

``GATE=PATH``   the build stops half way, makes ``PATH.reached`` and waits for ``PATH.open``
``BROKEN=ON``   a source file does not compile
``MIB=N``       a source file becomes an object of N MiB
``SICK=ON``     llama-server is built and then does not run
``WEB=ON``      the web page can be downloaded
``CUDA=PATH``   a backend is linked with the libraries of this toolkit
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

FILES = {
    "LICENSE": "MIT\n",
    "CMakeLists.txt": """\
cmake_minimum_required(VERSION 3.14)
project(llama.cpp CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
foreach(option BROKEN MIB SICK)
  if(${option})
    add_compile_definitions(${option}=${${option}})
  endif()
endforeach()
add_library(llama SHARED llama.cpp)
set_target_properties(llama PROPERTIES VERSION 0.1.0 SOVERSION 0)
add_custom_command(OUTPUT gate.h COMMAND sh "${CMAKE_SOURCE_DIR}/gate.sh" "${GATE}" DEPENDS llama VERBATIM)
add_executable(llama-server server.cpp gate.h)
target_include_directories(llama-server PRIVATE "${CMAKE_BINARY_DIR}")
target_link_libraries(llama-server llama)
if(CUDA)
  add_library(ggml-cuda MODULE cuda.cpp)
  target_link_libraries(ggml-cuda "${CUDA}/lib64/libcublas.so.13" "${CUDA}/lib64/libcudart.so.13")
  add_dependencies(llama ggml-cuda)
endif()
if(LLAMA_USE_PREBUILT_UI AND WEB)
  file(WRITE "${CMAKE_BINARY_DIR}/tools/ui/ui.cpp" "index.html")
else()
  file(WRITE "${CMAKE_BINARY_DIR}/tools/ui/ui.cpp" "")
endif()
""",
    "llama.cpp": "const char * file() { return __FILE__; }\nint answer() { return 42; }\n",
    "cuda.cpp": 'extern "C" int cublas();\nextern "C" int cudart();\nint both() { return cublas() + cudart(); }\n',
    "server.cpp": """\
#include "gate.h"
int answer();
#ifdef BROKEN
int broken = not_declared;
#endif
#ifdef MIB
char big[MIB << 20] = {1};
#endif
#ifdef SICK
int main() { return 3; }
#else
int main() { return answer() - 42; }
#endif
""",
    # It gives up in the end: a failed test leaves no process behind.
    "gate.sh": """\
if [ -n "$1" ]; then
  : > "$1.reached"
  tries=0
  while [ ! -e "$1.open" ] && [ "$tries" -lt 600 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
fi
: > gate.h
""",
}


@dataclass(frozen=True)
class Tree:
    """Where the source is."""

    archive: Path
    sha256: str
    git_url: str
    commit: str


def sha256(path: Path) -> str:
    """A file's hash as variables write it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(folder: Path, archive: Path, top: str) -> None:
    """Put a folder into an archive under the name ``top``."""
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(folder, top)


def make(folder: Path) -> Tree:
    """Write the tree into an archive, and into a git repository that has it at the tag b1."""
    source = folder / "source"
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_text(content)
    archive = folder / "llama.cpp.tar.gz"
    pack(source, archive, "llama.cpp-b1")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=source, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "Release")
    git("tag", "--annotate", "--message", "b1", "b1")
    return Tree(archive, sha256(archive), source.as_uri(), git("rev-parse", "HEAD"))
