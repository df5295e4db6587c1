#!/usr/bin/env bash
# What a user has who has no compiler: a fresh Debian 12 without gcc and headers, the wheels that `make dist` left in dist/,
# `pip install nativemem`, and then every program and command of the ten-minute page with what it prints
# (scripts/try_page.py), on the native wheel; README's examples on the native and on the pure one.
#
# Usage: test_wheel_without_compiler.sh      as root on Debian; a minute or two; scripts/debian_system.sh says how
set -euo pipefail
name=$(basename "$0")
root=$(realpath "$(dirname "$0")/..")

# shellcheck source=scripts/debian_system.sh
. "$root/scripts/debian_system.sh"
# Debian 12's Python is 3.11
[ -n "$(compgen -G "$root/dist/nativemem-*-cp311-cp311-manylinux*.whl")" ] ||
  fail "dist has no manylinux wheel for Python 3.11; make dist PYTHONS=python3.11 makes it"
[ -n "$(compgen -G "$root/dist/nativemem-*-py3-none-any.whl")" ] || fail "dist has no pure wheel; make dist makes it"
system_enter "$@"
system_make bookworm

say "Python, and no compiler"
quietly "apt-get install" inside apt-get install -qq -y --no-install-recommends python3 python3-venv
system_bring_pip
for tool in cc gcc c++ g++ clang tcc make; do
  if inside sh -c "command -v $tool" >/dev/null; then fail "the system has $tool"; fi
done
mkdir "$system/root/native" "$system/root/pure"
cp "$root"/dist/nativemem-*-cp311-cp311-manylinux*.whl "$system/root/native/"
cp "$root"/dist/nativemem-*-py3-none-any.whl "$system/root/pure/"
cp "$root/docs/tutorial.md" "$root/README.md" "$root/scripts/try_page.py" "$system/root/"

for kind in native pure; do
  python=/root/env-$kind/bin/python
  quietly "the environment" inside python3 -m venv "/root/env-$kind"
  # the project's wheels from the folder alone; what they ask for, from the index
  quietly "pip install nativemem ($kind)" inside $python -m pip install --disable-pip-version-check --only-binary :all: \
    --find-links "/root/$kind" "nativemem==$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/src/nativemem/_version.py")"
  said=$(inside env -C / $python -c 'import nativemem; print(nativemem.backend, nativemem.__version__, nativemem.__file__)')
  say "$said"
  [ "${said%% *}" = $kind ] || fail "the $kind wheel works on another backend"
  quietly "README on the $kind wheel" inside env -C /root $python -m doctest -o ELLIPSIS README.md
done

python=/root/env-native/bin/python
quietly "pip install pytest" inside $python -m pip install --disable-pip-version-check --only-binary :all: pytest
say "the ten minutes of docs/tutorial.md"
inside env -u CI -C /root --default-signal=INT,QUIT $python try_page.py tutorial.md || fail "failed: the page"
say "passed without a compiler"
