#!/usr/bin/env bash
# The tests of the pure backend on a free-threaded CPython. Debian has none as a package, so it is built from the source
# of trixie's python3.13, once, below build/; the package is installed with pip as a user would, and tested there.
#
# Usage: test_free_threaded.sh [arguments for pytest: other tests, or options]   as root on Debian; some minutes
#   FREE_THREADED_PYTHON   one that is there already: nothing is built then, and it needs no root
set -euo pipefail
name=$(basename "$0")
root=$(realpath "$(dirname "$0")/..")
place=$root/build/free-threaded
tests=(tests/test_free_threaded.py tests/contract tests/test_pure_details.py tests/test_config.py tests/test_cli.py
  tests/test_doctor.py tests/test_memlib.py tests/test_differential.py)

# shellcheck source=scripts/debian_system.sh
. "$root/scripts/debian_system.sh" # fail, say, quietly, archive

build() {
  local apt mirror folder
  [ "$(id -u)" = 0 ] || fail "needs root, for apt-get"
  export DEBIAN_FRONTEND=noninteractive
  quietly "apt-get update" apt-get update -qq
  quietly "apt-get install" apt-get install -qq -y --no-install-recommends \
    dpkg-dev gcc libbz2-dev libc6-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev make xz-utils zlib1g-dev
  mirror=$(archive)
  [ -n "$mirror" ] || fail "apt of this machine has no archive of Debian's"
  # lists of its own: this machine's sources stay as they are
  mkdir -p "$place/apt/lists/partial" "$place/apt/cache/archives/partial" "$place/source"
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$place/apt/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$place/apt/lists" -o "Dir::Cache=$place/apt/cache" -o APT::Sandbox::User=root)
  say "the source of trixie's python3.13"
  quietly "apt-get update of trixie" apt-get "${apt[@]}" update
  (cd "$place/source" && quietly "apt-get source" apt-get "${apt[@]}" source --download-only python3.13)
  tar -C "$place/source" -xf "$place"/source/python3.13_*.orig.tar.xz
  folder=$(echo "$place"/source/Python-3.13*)
  say "the build of $(basename "$folder") without the lock"
  quietly "configure" env -C "$folder" ./configure -q --disable-gil "--prefix=$place/python"
  quietly "make" make -C "$folder" -j"$(nproc)"
  quietly "make install" make -C "$folder" install
  rm -rf "$place/source" "$place/apt"
}

mkdir -p "$place"
python=${FREE_THREADED_PYTHON:-$place/python/bin/python3.13t}
if [ ! -x "$python" ]; then
  [ -z "${FREE_THREADED_PYTHON-}" ] || fail "there is no $python"
  build
fi
say "an environment of $("$python" -VV)"
rm -rf "$place/venv"
quietly "the environment" "$python" -m venv "$place/venv"
python=$place/venv/bin/python
# with the build switch as it is by itself: the build finds out that there can be no core
quietly "pip install" env -u USE_NATIVE_MEM "$python" -m pip install --disable-pip-version-check "$root"
# the newer hypothesis has a core of its own, which has no wheel for 3.13t
quietly "pip install of the tests' tools" "$python" -m pip install --disable-pip-version-check --prefer-binary \
  "cachetools>=5" "hypothesis>=6.100,<6.140" "pytest>=8" "pytest-xdist>=3.5"

say "the tests"
cd "$root"
env -u CI "$python" -m pytest -q -p no:cacheprovider -n "$(nproc)" --dist loadfile -m 'not slow' "${@:-${tests[@]}}" ||
  fail "failed: the tests without the lock"
say "passed without the lock"
