#!/usr/bin/env bash
# The check on a machine with an NVIDIA GPU and no network:
#
#   tests/gpu/check.sh --prepare      on a machine with network: .gpu-check/, which the other machine needs too
#   tests/gpu/check.sh                there: builds, serves, proves, measures, compares, and prints one table
#
# Started again, it goes on where it stopped. `check.sh --help` lists the options, CONTRIBUTING.md says more.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [ "${1:-}" = --prepare ]; then
    shift
    cd "$root"
    exec "${NEXUS_PYTHON:-.venv/bin/python}" -m tests.gpu.pack "$@"
fi

# Whatever folder this is called from, it is this tree that is checked.
start='import sys; sys.path[0] = sys.argv.pop(1); from tests.gpu.check import main; sys.exit(main())'
# Ansible needs 3.11; a machine without it is told so by the check itself, which runs on 3.9.
for python in "${NEXUS_PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" -c "$start" "$root" "$@"
    fi
done
exec python3 -c "$start" "$root" "$@"
