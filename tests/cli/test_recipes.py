"""`detcli recipes` as a user runs it: output, exit codes, and errors without tracebacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detcli.cli import app as app_module
from detcli.cli.app import main
from detcli.errors import DataError
from detcli.recipe import load_recipe
from tests.cli.run_cli import run as in_process
from tests.paths import ROOT

RECIPE = str(ROOT / "recipes" / "atss_r18_bccd.yaml")
BROKEN = """\
name: broken
about: Three faults.
data: {format: shapes, root: x, shapes: {}}
model: {name: ats}
optim: {lr: .inf}
trian: {}
"""


class Ran:
    """What one command left: exit code, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        self.code = exit_.value.code or 0
        self.out, self.err = capsys.readouterr()
        self.errors = self.err.splitlines()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    names = Ran(capsys, "recipes", "list", "--quiet").out.splitlines()
    assert "atss_r50" in names
    found = json.loads(Ran(capsys, "recipes", "list", "--json").out)
    assert [entry["name"] for entry in found] == names
    assert found[names.index("atss_r50")]["expected"][0]["AP"] == 0.394
    table = Ran(capsys, "recipes", "list").out
    assert re.search(r"atss_r50 +ATSS with ResNet-50 and FPN on COCO, 1x\. +39\.4 / 36\.1", table)


def test_show_has_every_value_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "recipes", "show", RECIPE, "optim.lr=0.1", "--trick", "ema")
    rows = {line.split()[0]: line for line in ran.out.splitlines() if line.strip()}
    assert re.search(r"0\.1 +command line", rows["optim.lr"])
    assert re.search(r"0\.9998 +trick ema", rows["train.ema.decay"])
    assert re.search(r"true +default", rows["data.pin_memory"])
    assert re.search(rf"cosine +recipe {RECIPE}:\d+", rows["schedule.name"])
    assert set(load_recipe(RECIPE).origins) - {"train.ema"} <= set(rows)


def test_show_as_json_and_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, "recipes", "show", RECIPE, "--json", "schedule.name=step")
    document = json.loads(ran.out)
    assert document["recipe"]["schedule"]["name"] == "step"
    assert document["origins"]["schedule.name"] == "command line"
    assert document["notes"] == ran.errors
    assert "schedule.min_lr_ratio: dropped" in ran.err
    copy = tmp_path / "atss_r18_bccd.yaml"
    copy.write_text(Ran(capsys, "recipes", "show", RECIPE, "--yaml").out, encoding="utf-8")
    assert load_recipe(copy).recipe == load_recipe(RECIPE).recipe


def test_copy_renames_and_keeps_comments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "new" / "mine.yaml"
    assert Ran(capsys, "recipes", "copy", "fcos_r50_caffe", str(target)).code == 0
    copied = load_recipe(target).recipe
    assert copied.name == "mine"
    assert copied.model == load_recipe("fcos_r50_caffe").recipe.model
    source = (ROOT / "recipes" / "fcos_r50_caffe.yaml").read_text(encoding="utf-8")
    comments = re.findall(r"#.*", target.read_text(encoding="utf-8"))
    assert comments == re.findall(r"#.*", source) != []


def test_copy_never_overwrites_silently(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "atss_r50.yaml"
    target.write_text("precious", encoding="utf-8")
    ran = Ran(capsys, "recipes", "copy", "atss_r50", str(tmp_path))
    assert ran.code == 2
    (error,) = ran.errors
    assert error.startswith(f"error: {target} ")
    assert "--force" in error
    assert target.read_text(encoding="utf-8") == "precious"
    assert Ran(capsys, "recipes", "copy", "atss_r50", str(tmp_path), "--force").code == 0
    assert load_recipe(target).recipe == load_recipe("atss_r50").recipe


@pytest.mark.parametrize("name", ["123.yaml", "on.yaml", "1e-4.yaml", "null.yml"])
def test_copy_to_a_name_that_yaml_might_misread(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / name
    assert Ran(capsys, "recipes", "copy", "atss_r50", str(target)).code == 0
    assert load_recipe(target).recipe.name == target.stem


def test_copy_of_a_recipe_whose_name_stands_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "flow.yaml"
    flow = (
        "{name: flow, about: x, data: {format: shapes, root: r, shapes: {}}, model: {name: atss}}"
    )
    source.write_text(flow, encoding="utf-8")
    assert Ran(capsys, "recipes", "copy", str(source), str(tmp_path / "b.yaml")).code == 0
    assert load_recipe(tmp_path / "b.yaml").recipe.name == "b"


@pytest.mark.parametrize("target", ["a b.yaml", "mine.txt", "x/../.yaml"])
def test_copy_to_an_impossible_name(
    target: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran = Ran(capsys, "recipes", "copy", "atss_r50", str(tmp_path / target))
    assert ran.code == 2
    assert len(ran.errors) == 1
    assert list(tmp_path.iterdir()) == []


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(Ran(capsys, "recipes", "diff", "atss_r50", "atss_r101", "--json").out)
    assert document["rows"] == [{"key": "model.backbone.depth", "a": 50, "b": 101}]
    table = Ran(capsys, "recipes", "diff", "atss_r50", "atss_r101").out
    assert re.search(r"model\.backbone\.depth +50 +101", table)
    same = Ran(capsys, "recipes", "diff", "atss_r50", "atss_r50")
    assert (same.code, same.out, len(same.err.splitlines())) == (0, "", 1)


def test_check_lists_every_error_of_every_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(Path(RECIPE).read_text(encoding="utf-8"), encoding="utf-8")
    bad.write_text(BROKEN, encoding="utf-8")
    ran = Ran(capsys, "recipes", "check", str(good), str(bad), str(tmp_path / "absent.yaml"))
    assert ran.code == 2
    assert ran.out == f"OK {good}\n"
    starts = [f"error: {bad}:{line}: " for line in (4, 5, 6)] + ["error: no recipe "]
    assert len(ran.errors) == 4
    for line, start in zip(ran.errors, starts, strict=True):
        assert line.startswith(start)
    document = json.loads(Ran(capsys, "recipes", "check", str(tmp_path), "--json").out)
    assert [(entry["path"], entry["ok"], len(entry["errors"])) for entry in document] == [
        (str(bad), False, 3),
        (str(good), True, 0),
    ]
    assert Ran(capsys, "recipes", "check", str(good)).code == 0


def test_schema(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = json.loads(Ran(capsys, "recipes", "schema").out)
    out = tmp_path / "schema.json"
    assert Ran(capsys, "recipes", "schema", "--out", str(out)).code == 0
    assert json.loads(out.read_text(encoding="utf-8")) == printed
    assert printed["properties"]["optim"]["description"]


def test_debug_shows_the_traceback_before_or_after_the_verb(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BROKEN, encoding="utf-8")
    plain = run("recipes", "show", str(bad))
    assert (plain.returncode, "Traceback" in plain.stderr) == (2, False)
    for arguments in (
        ("--debug", "recipes", "show", str(bad)),
        ("recipes", "show", str(bad), "--debug"),
    ):
        assert "Traceback" in run(*arguments).stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `detcli` in a process of its own."""
    command = [sys.executable, "-m", "detcli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian",),
        ("recipes", "lst"),
        ("recipes", "show"),
        ("recipes", "show", RECIPE, "--tric", "x"),
        ("--wrong",),
    ],
)
def test_usage_errors_exit_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, *arguments)
    assert ran.code == 2
    assert "Error" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a.jpg: broken"), 3, "error: a.jpg: broken"),
        (TypeError("what\nnow"), 70, "error: TypeError: what now ("),
    ],
)
def test_every_error_is_a_line_with_its_code(
    error: Exception,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(arguments: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "build_app", fail)
    ran = Ran(capsys, "recipes")
    assert ran.code == code
    assert ran.err.startswith(line)
    assert ("--debug" in ran.err) == (code == 70)
    assert len(ran.errors) == 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    start=st.integers(0, 3000),
    new=st.binary(max_size=8),
    argument=st.text(max_size=20).filter(lambda text: not text.startswith("-")),
)
def test_fuzzed_recipes_through_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start: int, new: bytes, argument: str
) -> None:
    content = Path(RECIPE).read_bytes()
    start %= len(content)
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(content[:start] + new + content[start + 8 :])
    for arguments in (("check", str(path)), ("show", str(path)), ("show", RECIPE, argument)):
        ran = Ran(capsys, "recipes", *arguments)
        assert ran.code in {0, 2}
        assert "Traceback" not in ran.err
        if ran.code == 2:
            assert ran.errors
            assert all(line.startswith("error: ") and line.isprintable() for line in ran.errors)


def test_tricks_are_listed(capsys):
    names = {path.stem for path in (ROOT / "recipes/tricks").glob("*.yaml")}
    listed = json.loads(in_process(capsys, "recipes", "tricks", "--json").out)
    assert {entry["name"] for entry in listed} == names
    assert all(entry["about"] and entry["source"] for entry in listed)
    assert set(in_process(capsys, "recipes", "tricks", "--quiet").out.split()) == names
    assert "mosaic" in in_process(capsys, "recipes", "tricks").out


# What a practitioner searches the output of `detcli recipes tricks` for, and what that must find.
SEARCHES = {
    "gradient clipping": {"grad-clip", "grad-clip-value", "large-lr"},
    "gradient accumulation": {"large-batch"},
    "gradient checkpointing": {"recompute"},
    "mixed precision": {"low-precision", "low-precision-fp16"},
    "warm-up": {"warmup"},
    "cosine annealing": {"cosine", "cosine-restarts"},
    "on a plateau": {"plateau", "plateau-loss"},
    "exponential moving average": {"ema"},
    "stochastic weight averaging": {"swa"},
    "knowledge distillation": {"distill"},
    "feature map": {"aspp", "carafe", "distill", "duc"},
    "bottom-up path": {"pan"},
    "path aggregation": {"pan"},
    "channel attention": {"se"},
    "spatial attention": {"cbam"},
    "squeeze-and-excitation": {"se"},
    "global context": {"gc"},
    "deformable convolution": {"dcn", "dcn-v1"},
    "dilated": {"dilation"},
    "atrous": {"aspp", "dilation"},
    "depthwise separable": {"bifpn", "depthwise"},
    "re-parameterised": {"rep-conv"},
    "group norm": {"from-scratch", "norm-gn"},
    "roi pooling": {"roi-context", "roi-pool"},
    "label assignment": {"auxiliary-head", "enlarge-small"},
    "hard example mining": {"ohem-hardest", "ohem-rank"},
    "hard negatives": {"duck-injection"},
    "label smoothing": {"label-smoothing"},
    "class-balanced": {"class-weights"},
    "box loss": {"ciou", "diou", "eiou", "focal-eiou", "giou", "iou", "small-box-weight"},
    "mosaic": {"mosaic"},
    "multi-scale": {"multi-scale"},
    "random crop": {"crop"},
    "poisson blending": {"poisson"},
}


def test_tricks_are_found_by_the_words_of_the_field(capsys):
    lines = in_process(capsys, "recipes", "tricks").out.lower().splitlines()
    found = {words: {line.split()[0] for line in lines if words in line} for words in SEARCHES}
    missed = {words: names - found[words] for words, names in SEARCHES.items()}
    assert {words: names for words, names in missed.items() if names} == {}


def test_the_line_of_a_trick_is_short(capsys):
    listed = json.loads(in_process(capsys, "recipes", "tricks", "--json").out)
    assert [entry["name"] for entry in listed if len(entry["about"]) > 140] == []


@pytest.mark.parametrize(
    "arguments",
    [("show", RECIPE, "\x1b[="), ("copy", RECIPE, "\x1b[31m.txt"), ("check", "\x1b[31m")],
)
def test_errors_show_no_raw_control_characters(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = in_process(capsys, "recipes", *arguments)
    assert done.code == 2
    assert "\x1b" not in done.err
    assert r"\x1b[" in done.err


@pytest.mark.parametrize("arguments", [("copy", RECIPE), ("schema", "--out")])
def test_a_file_that_cannot_be_written(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("no folder", encoding="utf-8")
    done = in_process(capsys, "recipes", *arguments, tmp_path / "a" / "b.yaml")
    assert done.code == 3
    assert re.fullmatch(r"error: .*a/b\.yaml: cannot be written: .*\n", done.err)
