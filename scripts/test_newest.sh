#!/usr/bin/env bash
# The tests of what depends on an interpreter's insides, on the newest CPython that pyproject.toml names and Debian sid
# has: debootstrap makes a system, the C core is built in it, the tests run, and the system is gone again.
#
# Usage: test_newest.sh [arguments for pytest: other tests, or options]      as root on Debian; some minutes
#
# scripts/debian_system.sh says how. Where the system cannot be made, as when the archive is in the midst of a change, it ends
# with 75.
set -euo pipefail
name=$(basename "$0")
root=$(realpath "$(dirname "$0")/..")
tests=(tests/contract tests/test_core.py tests/test_engine.py tests/test_scopes.py tests/test_denials.py
  tests/test_numpy_hook.py tests/test_cffi_hook.py tests/test_cli.py tests/test_run_is_python.py tests/test_quick_start.py
  tests/structures tests/observe/test_control.py)

# shellcheck source=scripts/debian_system.sh
. "$root/scripts/debian_system.sh"
system_enter "$@"
set -- "${words[@]}"
system_make sid
status=75
there=$(inside apt-cache search --names-only '^python3\.[0-9]+-venv$')
for version in $(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' "$root/pyproject.toml" | sort -rV); do
  if grep -q "^python$version-venv " <<<"$there"; then break; fi
  say "sid has no Python $version"
  version=
done
[ -n "$version" ] || fail "sid has none of the versions that pyproject.toml names"

say "Python $version and gcc"
quietly "apt-get install in sid" inside apt-get install -qq -y --no-install-recommends \
  g++ libc6-dev "python$version-dev" "python$version-venv"
system_bring_pip

status=1
say "the environment with the C core"
mkdir "$system/root/tree"
tar -C "$root" --exclude-vcs --exclude='./.venv*' --exclude=./build --exclude=./dist --exclude='*.so' \
  --exclude=__pycache__ --exclude='./.*_cache' -c . | tar -C "$system/root/tree" -x
python=/root/venv/bin/python
quietly "the environment" inside "python$version" -m venv /root/venv
quietly "pip install '.[test]' with the core" inside env USE_NATIVE_MEM=1 $python -m pip install --disable-pip-version-check '/root/tree[test]'

say "the tests on $(inside "python$version" -c 'import platform; print(platform.python_version())')"
# a command in the background ignores interrupts, and hands that on: tests that send one would wait for ever
inside env -C /root/tree --default-signal=INT,QUIT $python -m pytest -q -p no:cacheprovider -n "$(nproc)" --dist loadfile -m 'not slow' "${@:-${tests[@]}}" ||
  fail "failed: the tests on Python $version"
say "passed on Python $version"
