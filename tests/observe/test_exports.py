"""PROF-2: files for other tools, read by their own readers where one can be had, else by published layouts."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nativemem.observe.report import Report, render
from nativemem.observe.report.formats import format_of

from .recordings import HOSTILE, MIB, example, hostile

SCHEMA = Path(__file__).with_name("speedscope-schema.json")
RECORDINGS = pytest.mark.parametrize("recording", [example(), hostile()], ids=["example", "hostile"])


def test_the_endings_of_files() -> None:
    """PROF-2"""
    for name, form in {
        "a.json": "json",
        "a.speedscope.json": "speedscope",
        "a.perfetto.json": "perfetto",
        "a.trace.json": "perfetto",
        "a.folded": "collapsed",
        "a.pb.gz": "pprof",
        "a.gz": None,
    }.items():
        assert format_of(name) == form


def test_collapsed() -> None:
    """PROF-2"""
    lines = str(render(example(), "collapsed")).splitlines()
    inner = "JSONDecoder.raw_decode (/usr/lib/python3.11/json/decoder.py:353)"
    assert f"[cache];main (/srv/app/main.py:40);load (/srv/app/load.py:12);{inner} {24 * MIB}" in lines
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == Report(example()).amount.peak
    live = str(render(example(), "collapsed", by="live"))
    assert "arrays" not in live and "load (/srv/app/load.py:12) " not in live, "nothing of it is live"


def test_collapsed_with_hostile_names() -> None:
    """PROF-2, REP-5: as flamegraph.pl takes lines apart."""
    lines = str(render(hostile(), "collapsed")).splitlines()
    assert len(lines) == len(HOSTILE)
    for line in lines:
        match = re.fullmatch(r"(.*) (\d+)", line)
        assert match and len(match[1].split(";")) == 3


@RECORDINGS
def test_speedscope(recording: Any) -> None:
    """PROF-2: against the schema that speedscope publishes."""
    fastjsonschema = pytest.importorskip("fastjsonschema", reason="fastjsonschema is not installed")
    check = fastjsonschema.compile(json.loads(SCHEMA.read_text()))
    found = json.loads(render(recording, "speedscope", by="total"))
    check(found)
    report = Report(recording)
    for profile, measure in zip(found["profiles"], ("live", "peak", "total"), strict=False):
        assert sum(profile["weights"]) == profile["endValue"] == report.amount.bytes(measure)
        assert len(profile["weights"]) == len(profile["samples"])
    assert found["profiles"][found["activeProfileIndex"]]["name"] == "in total"
    owners = [each for each in found["profiles"][3:] if each["weights"]]
    assert sum(each["endValue"] for each in owners) == report.amount.total
    frames = found["shared"]["frames"]
    outermost = {frames[sample[0]]["name"] for each in found["profiles"] for sample in each["samples"]}
    assert "main" in outermost and len(outermost) <= 2
    found["profiles"][0]["unit"] = "elephants"
    with pytest.raises(fastjsonschema.JsonSchemaException):
        check(found)


#: of github.com/google/pprof, proto/profile.proto: by message its fields, as number, name and type;
#: a capital is another message, and a star stands for many
LAYOUT = {
    "ValueType": "1 type int64, 2 unit int64",
    "Label": "1 key int64, 2 str int64, 3 num int64, 4 num_unit int64",
    "Sample": "1 location_id *uint64, 2 value *int64, 3 label *Label",
    "Mapping": "1 id uint64, 5 filename int64, 7 has_functions bool, 8 has_filenames bool, 9 has_line_numbers bool",
    "Line": "1 function_id uint64, 2 line int64",
    "Location": "1 id uint64, 2 mapping_id uint64, 3 address uint64, 4 line *Line",
    "Function": "1 id uint64, 2 name int64, 3 system_name int64, 4 filename int64, 5 start_line int64",
    "Profile": "1 sample_type *ValueType, 2 sample *Sample, 3 mapping *Mapping, 4 location *Location, "
    "5 function *Function, 6 string_table *string, 9 time_nanos int64, 10 duration_nanos int64, "
    "11 period_type ValueType, 12 period int64, 13 comment *int64, 14 default_sample_type int64",
}


def parsed(data: bytes) -> Any:
    """A profile as the protobuf library reads it."""
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package="pprof", syntax="proto3")
    for name, fields in LAYOUT.items():
        message = file.message_type.add(name=name)
        for words in fields.split(", "):
            number, field, kind = words.split()
            made = message.field.add(name=field, number=int(number), label=3 if kind.startswith("*") else 1)
            kind = kind.lstrip("*")
            if kind[0].isupper():
                made.type, made.type_name = made.TYPE_MESSAGE, f".pprof.{kind}"
            else:
                made.type = getattr(made, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    profile = message_factory.GetMessageClass(pool.FindMessageTypeByName("pprof.Profile"))()
    profile.ParseFromString(data)
    return profile


@RECORDINGS
def test_pprof(recording: Any) -> None:
    """PROF-2: as the protobuf library reads it, with nothing that the layout does not have."""
    made = render(recording, "pprof", by="live")
    assert isinstance(made, bytes)
    profile = parsed(gzip.decompress(made))
    text, report = list(profile.string_table), Report(recording)
    assert text[0] == "" and len(set(text)) == len(text)
    types = [text[each.type] for each in profile.sample_type]
    assert text[profile.default_sample_type] == "inuse_space" and profile.period == recording.rate
    sums: Counter[str] = Counter()
    owners: Counter[str] = Counter()
    for sample in profile.sample:
        sums.update(dict(zip(types, sample.value, strict=True)))
        labels = {text[label.key]: text[label.str] for label in sample.label}
        owners[labels["owner"]] += sample.value[types.index("inuse_space")]
    assert (sums["alloc_space"], sums["peak_space"], sums["inuse_space"]) == (
        report.amount.total,
        report.amount.peak,
        report.amount.live,
    )
    assert sums["alloc_objects"] == report.amount.total_blocks
    assert owners == Counter({row.name: row.amount.live for row in report.owners})
    functions = {each.id: each for each in profile.function}
    locations = {each.id: each for each in profile.location}
    stacks = {
        tuple(
            (text[functions[line.function_id].filename], line.line, text[functions[line.function_id].name])
            for number in sample.location_id
            for line in locations[number].line
        )
        for sample in profile.sample
    }
    assert stacks == {tuple(map(tuple, report.tree.path(leaf.node))) for leaf in report.tree.leaves}
    assert [m.id for m in profile.mapping] == [1] and profile.mapping[0].has_line_numbers
    assert profile.time_nanos == recording.began * 1e9 and profile.duration_nanos == 10 * 10**9
    size = len(gzip.decompress(made))
    assert profile.ByteSize() == size, "each field is known to the layout"


@pytest.mark.skipif(shutil.which("go") is None, reason="Go, whose tool pprof is the real reader, is not installed")
def test_go_tool_pprof_opens_it(tmp_path: Path) -> None:
    """PROF-2"""
    file = tmp_path / "run.pb.gz"
    file.write_bytes(bytes(render(example(), "pprof")))  # type: ignore[arg-type]
    words = [
        "go",
        "tool",
        "pprof",
        "-top",
        "-lines",
        "-sample_index=inuse_space",
        "-tagfocus=owner=cache",
        str(file),
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0 and "Type: inuse_space" in done.stdout, done.stderr
    assert re.search(r"20MB .*JSONDecoder\.raw_decode .*decoder\.py:353", done.stdout), done.stdout


@RECORDINGS
def test_perfetto(recording: Any) -> None:
    """PROF-2: by the rules of the Trace Event Format."""
    found = json.loads(render(recording, "perfetto"))
    events = found["traceEvents"]
    assert all(isinstance(event["name"], str) and event["pid"] == 4711 for event in events)
    assert Counter(event["ph"] for event in events)["i"] == len(recording.refused)
    counters = [event for event in events if event["ph"] == "C"]
    assert all(set(event["args"]) == {"bytes"} and event["ts"] >= 0 for event in counters)
    report = Report(recording)
    used = [event for event in counters if event["name"].endswith(" used")]
    assert len(used) == sum(map(len, report.timelines.values()))
    for event in events:
        if event["ph"] == "i":
            assert event["s"] == "p" and event["args"]["path"] and event["args"]["requested"] > 0


def test_perfetto_has_a_track_for_each_owner() -> None:
    """PROF-2"""
    events = json.loads(render(example(), "perfetto"))["traceEvents"]
    tracks: dict[str, list[tuple[float, int]]] = {}
    for event in events:
        if event["ph"] == "C":
            tracks.setdefault(event["name"], []).append((event["ts"], event["args"]["bytes"]))
    assert tracks["cache used"] == [(1e6, 5 * MIB), (6e6, 31 * MIB)] and tracks["cache limit"] == [(1e6, 32 * MIB)]
    assert "process limit" not in tracks and len(tracks["request used"]) == 4
