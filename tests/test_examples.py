"""The example programs and the demo, run as a user runs them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import nativemem

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "examples" / "index_stdlib.py"
SERVICE = ROOT / "examples" / "service"
SUBSYSTEMS = ROOT / "examples" / "two_subsystems.py"
PIPELINE = ROOT / "examples" / "image_pipeline.py"
DEMO = ROOT / "scripts" / "demo.py"
SOAK = ROOT / "scripts" / "soak.py"
MAKE_IMAGES = ROOT / "scripts" / "make_images.py"


def start(script: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a child and wait for it."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def output_of(script: Path, *arguments: str, **env: str) -> str:
    """Return what a script prints; it must end well and have no complaints."""
    done = start(script, *arguments, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ModuleType]:
    """Import a script by its path, for the length of a test."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.skipif(nativemem.backend != "native", reason="scopes need the engine")
def test_of_two_subsystems_one_is_refused_and_the_other_is_not() -> None:
    """OWN-2. How long the requests take is not asked."""
    lines = output_of(SUBSYSTEMS, "400").splitlines()
    refused = re.match(r"cache: +\d+ entries filled in, refused (\d+) times, <Budget 'cache' ", lines[0])
    assert refused is not None
    assert int(refused[1]) > 1
    assert lines[1].startswith("service: 800 requests, 0 refused, <Budget 'service' ")
    assert re.fullmatch(r"  ratio of p99: \d+\.\d+", lines[-1])


@pytest.mark.skipif(nativemem.backend != "native", reason="scopes need the engine")
def test_of_the_tenants_of_a_service_the_greedy_one_is_refused() -> None:
    """OWN-2. The error names the owner and the line. Latencies of so few requests say nothing."""
    printed = output_of(SERVICE, "--requests", "5", "--rounds", "2", "--only-nativemem")
    rows = re.findall(
        r"^nativemem, (all modest|one greedy) +(\d+) +(\d+) +(?:[\d.]+ +){3}(\d+) +(\d+) ", printed, re.M
    )
    assert [(row[0], row[1], row[2]) for row in rows] == [("all modest", "40", "0"), ("one greedy", "40", "0")]
    assert int(rows[0][3]) > 0
    assert (rows[0][4], rows[1][3]) == ("0", "0")
    assert int(rows[1][4]) > 0
    assert re.search(r"^a refusal: 503, owner 'eve', server\.py:\d+ in add_words, limit 4194304$", printed, re.M)
    assert re.search(r"^p99 of the others .*: \d+\.\d+\nin 2 rounds .*, median \d+\.\d+$", printed, re.M)


@pytest.mark.skipif(nativemem.backend != "native", reason="scopes need the engine")
def test_a_short_soak_runs_every_kind_of_work(tmp_path: Path) -> None:
    """How much memory it takes is not judged in a short one."""
    pytest.importorskip("numpy", reason="leaves out kinds of work otherwise")
    pytest.importorskip("PIL", reason="leaves out kinds of work otherwise")
    log = tmp_path / "soak.log"
    lines = output_of(SOAK, "--seconds", "1", "--log", str(log)).splitlines()
    assert log.read_text(encoding="utf-8").splitlines() == lines
    assert not [line for line in lines if line.startswith("left out")]
    rounds = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", "\n".join(lines), re.M)}
    source = SOAK.read_text(encoding="utf-8")
    assert set(rounds) == set(re.findall(r"    def do_(\w+)\(", source))
    assert min(rounds.values()) >= 1
    assert lines[-1].endswith(" cycles; resident bytes are judged from 600 seconds on")


def test_a_soak_tells_growth_from_noise(load: Callable[[Path], ModuleType]) -> None:
    soak = load(SOAK)
    noise = [(float(i), 100.0 + (i * 7 % 10)) for i in range(200)]
    assert abs(soak.rise(noise)) < 0.01
    assert abs(soak.tenths(noise)) < 0.01
    assert soak.rise([(at, value + at / 10) for at, value in noise]) == pytest.approx(0.175, abs=0.01)
    assert soak.tenths([(at, value + at / 10) for at, value in noise]) == pytest.approx(0.17, abs=0.02)


class TestIndex:
    def test_finds_a_known_definition_and_prints_the_same_each_time(self) -> None:
        arguments = ("--limit", "40", "--query", "Mapping", "--query", "no_such_name")
        first = output_of(INDEX, *arguments, PYTHONHASHSEED="1")
        second = output_of(INDEX, *arguments, PYTHONHASHSEED="2")
        assert first == second
        assert "files        40 indexed, 0 skipped\n" in first
        place = re.search(r"defined    _collections_abc\.py:(\d+)  class Mapping\n", first)
        assert place is not None
        stdlib = Path(sysconfig.get_path("stdlib"))
        source = (stdlib / "_collections_abc.py").read_text(encoding="utf-8").splitlines()
        assert source[int(place[1]) - 1].startswith("class Mapping(")
        assert first.endswith("no_such_name: 0 definitions, 0 uses\n")

    def test_answers_in_full_on_a_tree_of_known_content(self, tmp_path: Path) -> None:
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "model.py").write_text(
            textwrap.dedent(
                '''\
                """A module."""
                LIMIT = 3  # XXX: raise it


                class Box:
                    def area(self):
                        inner = [side for side in self.sides]
                        return LIMIT * len(inner)


                async def area():
                    return Box().area()
                '''
            )
        )
        (tmp_path / "use.py").write_text("from package.model import area\nprint(area, '\\d')\n")
        (tmp_path / "broken.py").write_text("def (:\n")
        (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
        (tmp_path / "null.py").write_bytes(b"a = 1\0\n")
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_model.py").write_text("area = 1\n")
        printed = output_of(INDEX, "--root", str(tmp_path), "--query", "area")
        # How many tokens and nodes a text has is the interpreter's matter.
        printed = re.sub(r"\d+ tokens, \d+ nodes", "tokens, nodes", printed)
        assert printed == textwrap.dedent(
            """\
            files        2 indexed, 3 skipped
              skipped    broken.py
              skipped    latin.py
              skipped    null.py
            source       14 lines, tokens, nodes
            warnings     1
            definitions  1 class, 2 function, 1 variable
            names        3 defined, 0 of them never used by name
            uses         11 of 9 names
              most used  area 3, Box 1, LIMIT 1, inner 1, len 1
            comments     1, 15 characters
              tags       BUG 0, FIXME 0, TODO 0, XXX 1
            strings      2, 2 distinct
              repeated   \"\"\"A module.\"\"\" 1, '\\d' 1

            area: 2 definitions, 3 uses
              defined    package/model.py:6  function Box.area
              defined    package/model.py:11  function area
              as         call 1, import 1, name 1
              first      package/model.py:12  in area
              used by    use.py  2
              used by    package/model.py  1
            """
        )

    def test_indexes_test_folders_when_asked(self, tmp_path: Path) -> None:
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_it.py").write_text("def test_it(): pass\n")
        arguments = ("--root", str(tmp_path), "--query", "test_it")
        assert "test_it: 0 definitions" in output_of(INDEX, *arguments)
        assert "test_it: 1 definitions" in output_of(INDEX, *arguments, "--with-tests")

    @pytest.mark.parametrize("arguments", [("--root", "no/such/folder"), ("--limit", "0")])
    def test_a_bad_argument_is_a_usage_error(self, arguments: tuple[str, str]) -> None:
        done = start(INDEX, *arguments)
        assert done.returncode == 2
        assert arguments[1] in done.stderr


class TestPipeline:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("numpy", reason="the image pipeline needs numpy")
        pytest.importorskip("PIL", reason="the image pipeline needs pillow")

    def test_develops_each_picture_and_prints_the_same_each_time(self) -> None:
        arguments = ("--rounds", "2", "--size", "128")
        first = output_of(PIPELINE, *arguments, PYTHONHASHSEED="1")
        assert first == output_of(PIPELINE, *arguments, PYTHONHASHSEED="2")
        means = [float(found) for found in re.findall(r"^round .* mean +([\d.]+)", first, re.M)]
        assert len(means) == 2
        assert means[0] < means[1], "the second round is exposed longer"
        pattern = r"^  (\w+) +128 x 96 .* p1/p50/p99 +(\d+)/ *(\d+)/ *(\d+)  crc32 ([0-9a-f]{8})$"
        rows = re.findall(pattern, first, re.M)
        assert [row[0] for row in rows] == sorted(
            path.stem for path in (ROOT / "examples" / "images").glob("*.png")
        )
        assert all(int(low) < int(middle) < int(high) for _, low, middle, high, _ in rows)
        assert len({row[4] for row in rows}) == len(rows)

    def test_a_flat_grey_picture_stays_flat_and_grey(self, load: Callable[[Path], ModuleType]) -> None:
        import numpy as np

        pipeline = load(PIPELINE)
        flat = np.full((20, 30, 3), 128, dtype=np.uint8)
        developed = pipeline.develop(flat, pipeline.Look(1.0, 1.0, 0.5))
        assert developed.shape == flat.shape
        assert developed.dtype == np.uint8
        assert np.ptp(developed) <= 1

    def test_sharpening_steepens_an_edge_and_leaves_the_rest(self, load: Callable[[Path], ModuleType]) -> None:
        import numpy as np

        pipeline = load(PIPELINE)
        light = np.full((16, 16, 3), 0.25, dtype=np.float32)
        light[:, 8:] = 0.5
        sharp = pipeline.sharpen(light, 1.0)
        assert sharp.dtype == np.float32
        assert (sharp[:, 7] < 0.25).all()
        assert (sharp[:, 8] > 0.5).all()
        np.testing.assert_allclose(sharp[:, :6], 0.25, rtol=1e-6)
        np.testing.assert_allclose(sharp[:, 10:], 0.5, rtol=1e-6)
        np.testing.assert_allclose(pipeline.sharpen(light.swapaxes(0, 1), 1.0), sharp.swapaxes(0, 1), rtol=1e-6)

    def test_a_folder_without_pictures_is_a_usage_error(self, tmp_path: Path) -> None:
        done = start(PIPELINE, "--images", str(tmp_path))
        assert done.returncode == 2
        assert "no PNG files" in done.stderr

    def test_the_stored_pictures_are_those_that_the_script_draws(self, tmp_path: Path) -> None:
        printed = output_of(MAKE_IMAGES, "--check")
        assert printed.count("mean difference") == 5
        output_of(MAKE_IMAGES, "--out", str(tmp_path))
        (tmp_path / "clouds.png").write_bytes((tmp_path / "terrain.png").read_bytes())
        done = start(MAKE_IMAGES, "--check", "--out", str(tmp_path))
        assert done.returncode == 1, "a wrong picture is found"


FAKE_RUN = """\
import runpy
import sys
from pathlib import Path

report, sys.argv = Path(sys.argv[5]), sys.argv[6:]
summary = "{{}}"
{before}
if summary:
    report.write_text(summary)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class TestDemo:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("rich", reason="the demo prints its table with rich")

    @pytest.fixture
    def fake(self, tmp_path: Path) -> Callable[[str], str]:
        """Make a stand-in for the package; return the PYTHONPATH under which it is found first."""

        def fake(before: str) -> str:
            package = tmp_path / "nativemem"
            package.mkdir()
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(FAKE_RUN.format(before=before))
            return str(tmp_path)

        return fake

    def test_runs_both_sides_through_the_real_command_line(self, tmp_path: Path) -> None:
        done = start(DEMO, "--quick", "--reports", str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        assert "index_stdlib, default, run 1 of 1:" in done.stdout
        assert "index_stdlib, nativemem, run 1 of 1:" in done.stdout
        assert re.search(r"^ *wall time( +\d+\.\d\d s){2,4} *$", done.stdout, re.M)
        assert re.search(r"^ *budget +\N{EN DASH} +2\.00 GiB", done.stdout, re.M)
        assert re.search(r"^ *backend +\N{EN DASH} +(native|pure)", done.stdout, re.M)
        assert "…" not in done.stdout, "a cell was cut"
        after = done.stdout.partition("Both sides printed the same output in every run.\n")[2]
        pages = sorted(tmp_path.iterdir())
        if nativemem.backend == "native":
            assert [page.stem for page in pages][-1:] == ["index_stdlib"]
            assert "examples/index_stdlib.py" in pages[-1].read_text(), "the lines of the program"
            for page, line in zip(pages, sorted(after.splitlines()), strict=True):
                assert line.startswith(f"{page}: where the memory of {page.stem} went"), line
        else:
            assert pages == [] and "index_stdlib has no report: a profile is the engine's" in after

    def test_fails_when_the_two_sides_print_different_things(self, fake: Callable[[str], str]) -> None:
        done = start(DEMO, "--quick", PYTHONPATH=fake("print('noise')"))
        assert done.returncode == 1
        assert "run 1 on the nativemem side printed something else" in done.stderr
        assert "line 1 printed  b'noise'" in done.stderr

    def test_fails_when_a_side_fails(self, fake: Callable[[str], str]) -> None:
        done = start(DEMO, "--quick", PYTHONPATH=fake("sys.exit('the reason')"))
        assert done.returncode == 1
        assert "on the nativemem side ended with exit code 1:\nthe reason" in done.stderr

    def test_fails_when_there_is_no_summary(self, fake: Callable[[str], str]) -> None:
        done = start(DEMO, "--quick", PYTHONPATH=fake("summary = ''"))
        assert done.returncode == 1
        assert "wrote no summary" in done.stderr

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (None, "\N{EN DASH}"),
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (-(1 << 20), "-1.0 MiB"),
            (1 << 30, "1.00 GiB"),
            (5 << 40, "5120.00 GiB"),
        ],
    )
    def test_shows_sizes_in_binary_units(
        self, load: Callable[[Path], ModuleType], value: int | None, shown: str
    ) -> None:
        assert load(DEMO).size(value) == shown
