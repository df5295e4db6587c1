#!/usr/bin/env bash
# The tests on a free-threaded CPython: of the pure backend, and from 3.14t on of the C core as well. No distribution that is
# tried here has one as a package, so it is built once from a source package, below build/; nativemem is installed with pip as a
# user would, and tested there.
#
# Usage: test_free_threaded.sh [arguments for pytest: other tests, or options]   as root on Debian; some minutes
#   FREE_THREADED_PYTHON   one that is there already: nothing is built then, and it needs no root
#   FREE_THREADED_SOURCE   the archive of CPython 3.14's source in Ubuntu's source package python3.14 (3.14.4): a file or an
#                          address. Unset: Debian trixie's source of 3.13, where there is the pure backend alone
set -euo pipefail
name=$(basename "$0")
root=$(realpath "$(dirname "$0")/..")
place=$root/build/free-threaded
tests=(tests/test_free_threaded.py tests/test_hammer.py tests/test_free_threaded_engine.py tests/contract
  tests/test_pure_details.py tests/test_config.py tests/test_cli.py tests/test_doctor.py tests/test_memlib.py
  tests/test_differential.py tests/structures tests/manager)
# of python3.14_3.14.4.orig.tar.xz
sum=d923c51303e38e249136fc1bdf3568d56ecb03214efdef48516176d3d7faaef8

# shellcheck source=scripts/debian_system.sh
. "$root/scripts/debian_system.sh" # fail, say, quietly, archive

tools() {
  [ "$(id -u)" = 0 ] || fail "needs root, for apt-get"
  export DEBIAN_FRONTEND=noninteractive
  quietly "apt-get update" apt-get update -qq
  quietly "apt-get install" apt-get install -qq -y --no-install-recommends \
    ca-certificates curl dpkg-dev gcc libbz2-dev libc6-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev make xz-utils zlib1g-dev
  mkdir -p "$place/source"
}

from_ubuntu() {
  local file=$place/source/python3.14.orig.tar.xz
  say "the source of Ubuntu's python3.14"
  if [ -f "$FREE_THREADED_SOURCE" ]; then
    cp "$FREE_THREADED_SOURCE" "$file"
  else
    quietly "the source" curl -fsSL -o "$file" "$FREE_THREADED_SOURCE"
  fi
  echo "$sum  $file" | sha256sum --check --status || fail "the source is another than that of python3.14 3.14.4"
}

from_debian() {
  local apt mirror
  mirror=$(archive)
  [ -n "$mirror" ] || fail "apt of this machine has no archive of Debian's"
  # lists of its own: this machine's sources stay as they are
  mkdir -p "$place/apt/lists/partial" "$place/apt/cache/archives/partial"
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$place/apt/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$place/apt/lists" -o "Dir::Cache=$place/apt/cache" -o APT::Sandbox::User=root)
  say "the source of trixie's python3.13"
  quietly "apt-get update of trixie" apt-get "${apt[@]}" update
  (cd "$place/source" && quietly "apt-get source" apt-get "${apt[@]}" source --download-only python3.13)
}

build() {
  local folder
  tools
  if [ -n "${FREE_THREADED_SOURCE-}" ]; then from_ubuntu; else from_debian; fi
  tar -C "$place/source" -xf "$place"/source/python3.*.orig.tar.xz
  folder=$(echo "$place"/source/Python-3.*)
  say "the build of $(basename "$folder") without the lock"
  quietly "configure" env -C "$folder" ./configure -q --disable-gil "--prefix=$place/python"
  quietly "make" make -C "$folder" -j"$(nproc)"
  quietly "make install" make -C "$folder" install
  rm -rf "$place/source" "$place/apt"
}

mkdir -p "$place"
version=3.13
if [ -n "${FREE_THREADED_SOURCE-}" ]; then version=3.14; fi
interpreter=${FREE_THREADED_PYTHON:-$place/python/bin/python${version}t}
if [ ! -x "$interpreter" ]; then
  [ -z "${FREE_THREADED_PYTHON-}" ] || fail "there is no $interpreter"
  build
fi

# the tests with the build switch as it is by itself, auto, by which there is no core, or as it is given
try() {
  local python=$place/venv/bin/python
  say "an environment of $("$interpreter" -VV), $1"
  rm -rf "$place/venv"
  quietly "the environment" "$interpreter" -m venv "$place/venv"
  quietly "pip install" env -u USE_NATIVE_MEM "$2" "$python" -m pip install --disable-pip-version-check "$root"
  # the newer hypothesis has a core of its own, which has no wheel for 3.13t
  quietly "pip install of the tests' tools" "$python" -m pip install --disable-pip-version-check --prefer-binary \
    "cachetools>=5" "hypothesis>=6.100,<6.140" "numpy>=2.1" "pytest>=8" "pytest-xdist>=3.5"
  say "the tests, $1"
  (cd "$root" && env -u CI "$python" -m pytest -q -p no:cacheprovider -n "$(nproc)" --dist loadfile -m 'not slow' "${@:3}") ||
    fail "failed: the tests without the lock, $1"
}

if [ $# = 0 ]; then set -- "${tests[@]}"; fi
try "the pure package" USE_NATIVE_MEM=auto "$@"
if "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 14))'; then try "with the core" USE_NATIVE_MEM=1 "$@"; fi
say "passed without the lock"
