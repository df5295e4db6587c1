"""What a profile keeps is under its lock, though under the interpreter's lock no race would show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import nativemem

#: Ends the process where a lock is given up that nothing has, as `planted` does: a mutex of glibc says what has it.
WATCH = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static int (*real)(pthread_mutex_t *);
static unsigned long given_up;

int pthread_mutex_unlock(pthread_mutex_t *lock) {
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "pthread_mutex_unlock");
    if (lock->__data.__owner == 0 && lock->__data.__lock == 0) {
        static const char text[] = "a lock is given up that nothing has\\n";
        (void)!write(2, text, sizeof text - 1);
        abort();
    }
    given_up++;
    return real(lock);
}
unsigned long watched(void) { return given_up; }
void planted(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_unlock(&lock);
}
"""

#: Each place: blocks that are noted and forgotten, of the interpreter, the package and the C library's; refusals;
#: owners that end; a fork; a state, two reads; the start and the stop, with a file and without.
PROGRAM = """
import ctypes, os, sys
import nativemem
from nativemem.backends.selection import native_core
from nativemem.observe.profile import Profile
watch = ctypes.CDLL(sys.argv[1])
watch.watched.restype = ctypes.c_ulong
if len(sys.argv) > 3:
    watch.planted()
nativemem.install(limit="1 GiB", raw=True)
def locks(call):
    before = watch.watched()
    result = call()
    assert watch.watched() > before, call
    return result
kept = []
for path in (None, sys.argv[2]):
    profile = Profile(path, rate=1000)
    locks(profile.__enter__)
    locks(lambda: kept.extend(bytes(1000) for _ in range(1000)))
    locks(kept.clear)
    arena = nativemem.Arena("1 MiB")
    block = locks(lambda: arena.alloc(50_000))
    locks(block.free)
    arena.close()
    with nativemem.Budget("1 MiB", name="small"):
        try:
            kept.append(bytes(8 << 20))
        except MemoryError:
            pass
    locks(native_core("a profile").profile_state)
    locks(profile.read)
    locks(profile.read)
    child = os.fork()
    if child == 0:
        kept.append(bytes(1000))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    locks(lambda: profile.__exit__(None, None, None))
print("all of it")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if nativemem.backend != "native" or sys.platform != "linux":
        pytest.skip("a profile is of the engine, which is native, and the loader's of Linux")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    folder = tmp_path_factory.mktemp("locks")
    (folder / "watch.c").write_text(WATCH, encoding="utf-8")
    made = folder / "watch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", made, folder / "watch.c", "-ldl"], check=True)
    return str(made)


def run(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, library, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LD_PRELOAD": library})


def test_each_lock_that_is_given_up_was_taken(library: str, tmp_path: Path) -> None:
    done = run(library, str(tmp_path / "profile"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "all of it\n", "")


def test_one_that_was_not_taken_is_seen(library: str, tmp_path: Path) -> None:
    done = run(library, str(tmp_path / "profile"), "planted")
    assert done.returncode < 0 and done.stdout == "" and "that nothing has" in done.stderr
