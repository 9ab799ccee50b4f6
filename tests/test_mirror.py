"""Where a test is found: that of detcli/X/Y.py is tests/X/test_Y.py, or test_Y_<aspect>.py."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import PurePosixPath

from tests.paths import ROOT

# Folders for what has no single module.
ACROSS = {
    ".": "the project as a whole: imports, README, packages",
    "benchmarks": "ratios of time and memory, run by make bench",
    "contracts": "what every detector, recipe, method, ... must do",
    "distributed": "the same gradients on two processes",
    "fuzz": "broken input of every kind",
    "parity": "numbers of other toolboxes",
}
# Modules without a test of their name, and the test that would fail if they were wrong. A module
# that gets its own test, or goes, leaves the list; `*` stands for any name in a folder.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "assign/test_yolo.py": ("ops/yolo.py",),
    "cli/test_ablate.py": ("engine/ablate/cluster.py", "engine/ablate/session.py"),
    "cli/test_compare.py": ("engine/compare/compare.py",),
    "cli/test_data.py": ("engine/pictures/draw.py", "engine/pictures/preview.py"),
    "cli/test_evaluate.py": ("engine/compare/analysis.py", "predictions/with_truth.py"),
    "cli/test_export.py": ("engine/detect/export.py", "engine/detect/load.py"),
    "cli/test_lr_scale.py": ("engine/lr_scale/report.py", "engine/lr_scale/rewrite.py"),
    "cli/test_nms_compare.py": (
        "engine/compare/nms_compare.py",
        "engine/compare/report.py",
        "engine/compare/sweep.py",
    ),
    "cli/test_predict.py": ("engine/detect/predict.py",),
    "cli/test_recipes.py": ("recipe/index.py",),
    "cli/test_train.py": (
        "cli/output.py",
        "engine/pictures/training_curves.py",
        "engine/run/build.py",
        "engine/run/environment.py",
        "engine/run/log.py",
        "engine/run/predictions.py",
        "engine/train/divergence.py",
        "engine/train/loop.py",
        "engine/train/modes.py",
        "engine/train/trainer.py",
    ),
    "cli/test_tta.py": ("engine/detect/tta.py",),
    "cli/test_weights.py": ("engine/run/import_weights.py",),
    "cpu/test_sampling.py": ("layers/sampling.py",),
    "contracts/test_assigners.py": ("assign/assigner.py",),
    "contracts/test_detectors.py": (
        "models/*.py",
        "models/dense/head.py",
        "models/dense/outputs.py",
        "models/dense/terms.py",
        "models/set_prediction/set_head.py",
        "models/two_stage/detector.py",
    ),
    "contracts/test_necks.py": ("models/necks/extra.py", "models/necks/nas_fcos.py"),
    "contracts/test_recipe_errors.py": ("errors.py", "recipe/load.py", "recipe/schema.py"),
    "contracts/test_shipped_recipes.py": (
        "recipe/explain.py",
        "recipe/sections/*.py",
        "recipe/sections/models/*.py",
    ),
    "contracts/test_suppression.py": (
        "postprocess/adaptive.py",
        "postprocess/iou_guided.py",
        "postprocess/kernels/*.py",
        "postprocess/matrix.py",
        "postprocess/none.py",
        "postprocess/ranking.py",
        "postprocess/softer.py",
        "postprocess/suppress.py",
        "postprocess/weighted.py",
    ),
    "contracts/test_training_tricks.py": ("engine/train/build.py",),
    "data/formats/test_coco.py": ("data/formats/assemble.py", "data/formats/problems.py"),
    "data/formats/test_shapes.py": ("data/formats/shapes_draw.py",),
    "data/test_loader.py": ("data/dataset.py", "data/plan.py", "data/to_device.py"),
    "data/transforms/test_build_checks.py": (
        "data/transforms/oversample.py",
        "data/transforms/sample.py",
        "data/transforms/small.py",
    ),
    "data/transforms/test_mix.py": ("data/transforms/pool.py",),
    "distributed/test_two_processes.py": ("engine/run/distributed.py", "ops/reduce.py"),
    "engine/ablate/test_outcome.py": ("engine/ablate/report.py",),
    "engine/detect/test_views.py": ("data/formats/plain_images.py",),
    "engine/pictures/test_plots.py": ("engine/pictures/plot_labels.py",),
    "engine/profile/test_model.py": ("engine/profile/network.py",),
    "engine/profile/test_report.py": ("engine/profile/session.py", "engine/profile/versus.py"),
    "engine/profile/test_step.py": (
        "engine/profile/clock.py",
        "engine/profile/trial.py",
        "engine/train/meter.py",
    ),
    "engine/profile/test_variants.py": ("engine/profile/cuda.py",),
    "engine/train/distill/test_teacher.py": (
        "engine/run/batch.py",
        "engine/train/distill/student.py",
    ),
    "engine/train/test_announce.py": ("engine/run/start_weights.py",),
    "engine/train/test_checks.py": ("engine/train/class_weights.py",),
    "evaluation/test_bootstrap.py": ("evaluation/kernels/*.py", "evaluation/resample.py"),
    "fuzz/test_recipes.py": ("recipe/files.py",),
    "losses/test_classification.py": ("losses/dense_sum.py",),
    "models/backbones/test_hrnet.py": ("models/necks/hrfpn.py", "weights/names.py"),
    "models/test_centernet.py": (
        "models/backbones/dla.py",
        "models/backbones/pretrained.py",
        "models/necks/deconv.py",
        "models/necks/dla_up.py",
        "weights/centernet.py",
    ),
    "parity/test_fusion.py": ("postprocess/wbf.py",),
    "parity/test_set_predictors.py": (
        "models/set_prediction/deformable_transformer.py",
        "weights/deformable_detr.py",
    ),
    "parity/test_ssd_torchvision.py": ("weights/ssd.py",),
    "predictions/test_files.py": ("predictions/formats.py", "types.py"),
    "weights/test_darknet.py": ("models/backbones/cspdarknet.py",),
    "weights/test_mmdetection.py": ("weights/report.py",),
}


def relative(folder: str, pattern: str) -> list[PurePosixPath]:
    base = ROOT / folder
    return sorted(PurePosixPath(path.relative_to(base)) for path in base.rglob(pattern))


MODULES = [path for path in relative("detcli", "*.py") if not path.name.startswith("__")]
TESTS = relative("tests", "test_*.py")


def is_test_of(test: PurePosixPath, module: PurePosixPath) -> bool:
    subject = test.stem.removeprefix("test_")
    same = subject == module.stem or subject.startswith(f"{module.stem}_")
    return same and test.parent == module.parent


def fits(module: PurePosixPath, pattern: str) -> bool:
    parts = pattern.split("/")
    return len(parts) == len(module.parts) and all(map(fnmatch, module.parts, parts))


def test_every_module_is_tested_under_its_name_or_said_to_be_elsewhere() -> None:
    patterns = [pattern for patterns in ELSEWHERE.values() for pattern in patterns]
    own = {module for module in MODULES if any(is_test_of(test, module) for test in TESTS)}
    missing = [
        str(module)
        for module in MODULES
        if module not in own and not any(fits(module, pattern) for pattern in patterns)
    ]
    assert missing == [], f"add a test of that name, or say in {__file__} what tests them"
    needed = set(MODULES) - own
    stale = [pattern for pattern in patterns if not any(fits(each, pattern) for each in needed)]
    assert stale == [], f"these have a test of their own, or are gone: remove them from {__file__}"


def test_what_tests_them_is_there() -> None:
    assert set(ELSEWHERE) - set(map(str, TESTS)) == set()


def test_every_test_has_a_module_or_lies_where_none_is_needed() -> None:
    lost = [
        str(test)
        for test in TESTS
        if (test.parts[0] if len(test.parts) > 1 else ".") not in ACROSS
        and not any(is_test_of(test, module) for module in MODULES)
    ]
    assert lost == [], f"name them after their module, or move them to one of {sorted(ACROSS)}"
