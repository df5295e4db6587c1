"""The build switch USE_NATIVE_MEM: what each value builds, and what happens without a compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from builds import Build, run, source_tree

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("cffi")

pytestmark = pytest.mark.slow

EXTENSION_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Build:
    # a compiler that always fails shows that none is needed
    return Build(tmp_path_factory.mktemp("pure"), USE_NATIVE_MEM="0", CC="false")


@pytest.fixture(scope="module")
def fallen_back(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("fallen_back"), USE_NATIVE_MEM="auto", CC="false")


def extensions(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".pyd"))]


def record_of(wheel: Path) -> dict[str, object]:
    """What the build has put down about itself."""
    found = json.loads(zipfile.ZipFile(wheel).read("nativemem/_build.json"))
    assert isinstance(found, dict)
    return found


def required_at_run_time(wheel: Path) -> list[str]:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    lines = archive.read(name).decode().splitlines()
    return [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]


def install(wheel: Path, target: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    result = run(*pip, "--target", target, wheel)
    assert result.returncode == 0, result.stderr
    return target


def use(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Allocates from the installed package, and tells which backend served it."""
    program = (
        "import nativemem\n"
        "with nativemem.Arena() as arena:\n"
        "    block = arena.alloc(100)\n"
        "    memoryview(block)[:3] = b'abc'\n"
        "    assert bytes(memoryview(block)[:3]) == b'abc', bytes(memoryview(block))\n"
        "    assert len(block) == 100, len(block)\n"
        "print(nativemem.backend, nativemem.__file__)\n"
    )
    return run(sys.executable, *options, "-c", program, PYTHONPATH=str(site))


def backend_of(site: Path) -> str:
    result = use(site)
    assert result.returncode == 0, result.stderr
    backend, file = result.stdout.split(maxsplit=1)
    assert Path(file.strip()).is_relative_to(site)
    return backend


def test_1_builds_the_extension_for_this_python(required: Build, tmp_path: Path) -> None:
    assert extensions(required.wheel) == [f"nativemem/_core{EXTENSION_SUFFIX}"]
    assert required.wheel.name.split("-")[2] == "cp{}{}".format(*sys.version_info[:2])
    assert backend_of(install(required.wheel, tmp_path / "site")) == "native"


def test_the_native_wheel_depends_on_cffi_alone(required: Build) -> None:
    assert [line.split(">=")[0] for line in required_at_run_time(required.wheel)] == ["Requires-Dist: cffi"]


def test_1_without_a_working_compiler_is_an_error(tmp_path: Path) -> None:
    build = Build(tmp_path, USE_NATIVE_MEM="1", CC="false")
    assert build.result.returncode != 0
    assert not list(tmp_path.glob("*.whl"))


def test_0_builds_a_pure_wheel_without_a_compiler(pure: Build, tmp_path: Path) -> None:
    assert pure.wheel.name.endswith("-py3-none-any.whl")
    assert extensions(pure.wheel) == []
    assert backend_of(install(pure.wheel, tmp_path / "site")) == "pure"


def test_the_pure_wheel_needs_the_standard_library_only(pure: Build, tmp_path: Path) -> None:
    assert required_at_run_time(pure.wheel) == []
    # -S hides everything that is installed in the environment, cffi with it
    result = use(install(pure.wheel, tmp_path / "site"), "-S")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("pure ")


@pytest.mark.parametrize("changes", [{}, {"USE_NATIVE_MEM": "auto"}], ids=["unset", "auto"])
def test_auto_is_the_default_and_builds_the_extension(changes: dict[str, str], tmp_path: Path) -> None:
    wheel = Build(tmp_path / "build", **changes).wheel
    assert extensions(wheel) == [f"nativemem/_core{EXTENSION_SUFFIX}"]
    assert backend_of(install(wheel, tmp_path / "site")) == "native"


def test_auto_without_a_working_compiler_builds_a_pure_wheel(fallen_back: Build, tmp_path: Path) -> None:
    assert fallen_back.wheel.name.endswith("-py3-none-any.whl")
    assert extensions(fallen_back.wheel) == []
    assert backend_of(install(fallen_back.wheel, tmp_path / "site")) == "pure"


@pytest.mark.parametrize(("choice", "installs"), [("0", True), ("1", False)])
def test_where_cffi_cannot_be_installed(choice: str, installs: bool, tmp_path: Path) -> None:
    """PYV-3: in an environment that the frontend makes for the build, with a cffi that there is not."""
    (tmp_path / "none.txt").write_text("cffi==0.0.1.dev999\n")
    none = {name: str(tmp_path / "none.txt") for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
    tree = source_tree(tmp_path / "tree")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir")
    built = run(*pip, "--wheel-dir", tmp_path, tree, USE_NATIVE_MEM=choice, **none)
    assert (built.returncode == 0) == installs, built.stdout + built.stderr
    assert bool(list(tmp_path.glob("*-py3-none-any.whl"))) == installs


def test_a_fallback_needs_the_standard_library_only(fallen_back: Build) -> None:
    """PYV-3: cffi, where it cannot be installed either, is not asked for at run time."""
    assert required_at_run_time(fallen_back.wheel) == []


ASKED = """
import nativemem
from nativemem.errors import NativeUnavailable
import nativemem.capi
from nativemem.facades import load
def first_use():
    yield nativemem.install
    yield nativemem.Budget(1000).__enter__
    yield nativemem.get_include
    yield lambda: nativemem.capi._C_API
    yield nativemem.Heap().c_port
    yield lambda: load("native")
for use in first_use():
    try:
        use()
    except NativeUnavailable as error:
        print(error, "|", error.suggestion)
"""


def test_a_fallback_is_told_by_all_that_needs_the_core(fallen_back: Build, pure: Build, tmp_path: Path) -> None:
    """PYV-9: with the reason that the build recorded, and what to do."""
    for build, why in (
        (fallen_back, "the core was not built: the C compiler false does not compile a file that includes"),
        (pure, "it was built without the core (USE_NATIVE_MEM=0)"),
    ):
        site = install(build.wheel, tmp_path / why[:8])
        done = run(sys.executable, "-c", ASKED, PYTHONPATH=str(site))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 6
        for line in lines:
            assert why in line
            assert "USE_NATIVE_MEM=1 pip install" in line
        started = run(sys.executable, "-c", "import nativemem.auto", PYTHONPATH=str(site))
        assert (started.returncode, started.stderr.count(why)) == (0, 1)


def test_auto_warns_when_it_falls_back(fallen_back: Build, required: Build) -> None:
    warning = "the C core was not built, this is a pure Python build"
    assert warning in fallen_back.output
    assert warning not in required.output


@pytest.mark.parametrize("value", ["yes", "", "2", "AUTO"])
def test_any_other_value_stops_the_build_with_one_line(value: str, tmp_path: Path) -> None:
    result = run(sys.executable, source_tree(tmp_path / "tree") / "setup.py", USE_NATIVE_MEM=value)
    assert result.returncode != 0
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert f"USE_NATIVE_MEM={value!r}" in line
    for choice in ("1", "0", "auto"):
        assert f" {choice} (" in line


def test_pip_shows_the_line_about_a_bad_value(tmp_path: Path) -> None:
    build = Build(tmp_path, USE_NATIVE_MEM="yes")
    assert build.result.returncode != 0
    assert "USE_NATIVE_MEM='yes'" in build.output
    assert not list(tmp_path.glob("*.whl"))


def test_the_sdist_builds_in_a_fresh_isolated_environment(tmp_path: Path) -> None:
    """The archive has everything that a native build needs, and names its build requirements."""
    tree = source_tree(tmp_path / "tree")
    build = (sys.executable, "-m", "build", "--no-isolation", "--sdist")
    made = run(*build, "--outdir", tmp_path, tree)
    assert made.returncode == 0, made.stdout + made.stderr
    (sdist,) = tmp_path.glob("nativemem-*.tar.gz")

    # pip keeps wheels that it builds from an archive: this one is not to be had from there
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir")
    built = run(*pip, "--wheel-dir", tmp_path, sdist, USE_NATIVE_MEM="1")
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("nativemem-*.whl")
    assert backend_of(install(wheel, tmp_path / "site")) == "native"


def test_a_fallback_packs_no_extension_of_an_earlier_build(required: Build, tmp_path: Path) -> None:
    tree = shutil.copytree(required.tree, tmp_path / "tree")
    assert list((tree / "build").rglob("_core*")), "the tree was built before"
    source = tree / "csrc" / "alloc" / "arena.c"
    source.write_text("#error broken\n" + source.read_text())
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--wheel-dir", tmp_path, tree, USE_NATIVE_MEM="auto")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert extensions(wheel) == []
    record = record_of(wheel)
    assert (record["native"], record["asked"]) == (False, "auto")
    assert record["reason"] == "csrc/alloc/arena.c:1:2: error: #error broken"


def test_each_wheel_says_how_it_was_built(required: Build, pure: Build, fallen_back: Build) -> None:
    """PYV-9: and the two pure ones nothing of the machine, which they were not made for."""
    record, plain, fallen = (record_of(build.wheel) for build in (required, pure, fallen_back))
    assert (record["native"], record["asked"], record["reason"]) == (True, "1", None)
    assert record["compiler"]
    assert plain == {"native": False, "asked": "0", "reason": None}
    assert (fallen["native"], fallen["asked"]) == (False, "auto")
    assert set(fallen) == {"native", "asked", "reason"}


def test_every_wheel_has_what_starts_the_engine_beside_the_package(required: Build, pure: Build) -> None:
    """ENG-5"""
    for wheel in (required.wheel, pure.wheel):
        archive = zipfile.ZipFile(wheel)
        line = archive.read("nativemem_autoinstall.pth").decode()
        assert line.count("\n") == 1
        assert line.startswith("import ")  # the interpreter runs no other line
        # PEP 829, from 3.15 on: the line is passed over where a file of the same name stands beside it
        assert archive.read("nativemem_autoinstall.start").decode() == "nativemem_autoinstall:start\n"
        assert "def start()" in archive.read("nativemem_autoinstall.py").decode()


def test_an_editable_install_has_what_starts_the_engine(tmp_path: Path) -> None:
    """ENG-5: beside the file that leads to the sources, and after it in the order in which they are read."""
    tree = source_tree(tmp_path / "tree")
    build = f"import os; os.chdir({str(tree)!r}); from setuptools import build_meta as b; b.build_editable('..')"
    done = run(sys.executable, "-c", build, USE_NATIVE_MEM="0")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    paths = sorted(name for name in names if name.endswith(".pth"))
    assert len(paths) == 2
    assert paths[-1] == "nativemem_autoinstall.pth"
    assert [name for name in names if name.endswith(".start")] == ["nativemem_autoinstall.start"]
    assert not [name for name in names if name.endswith(".py")]  # it leads to the sources


def test_the_engine_starts_once_in_an_environment(pure: Build, tmp_path: Path) -> None:
    """PYV-4: installed into an environment as it is, by the file that this interpreter reads and by no other, and
    with no warning of it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    install(pure.wheel, site)
    (site / "nativemem" / "auto.py").write_text("print('auto')\n")
    (site / "nativemem_autoinstall.py").write_text(
        (site / "nativemem_autoinstall.py").read_text() + "\nprint('called')\n"
    )
    for value, expected in (("1", ["called", "auto", "here"]), ("0", ["here"]), (None, ["here"])):
        done = run(python, "-W", "error", "-c", "print('here')", NATIVEMEM_AUTOINSTALL=value)
        assert (done.returncode, done.stderr) == (0, "")
        if sys.version_info >= (3, 15) and value != "1":
            expected = ["called", *expected]  # it loads what the file names, whatever the variable says
        assert done.stdout.split() == expected
