"""Say which blocks a recipe switches on, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from detcli.models.backbones.timm import TimmBackbone
from detcli.models.detector import Detector
from detcli.recipe import Recipe
from detcli.recipe.sections.section import walk

SAME_SHADE = 0.5  # of 255: smaller differences of mean and std are rounding


def announce_blocks(recipe: Recipe, detector: Detector, say: Callable[[str], None]) -> None:
    """What each section of the model has to say of itself, and what only the detector knows."""

    def named(name: str) -> tuple[int, int]:
        modules = [part for path, part in detector.named_modules() if path.endswith(f".{name}")]
        found = [each for each, _ in detector.named_parameters() if each.endswith(f".{name}")]
        count = sum(parameter.numel() for part in modules for parameter in part.parameters())
        return len(modules) + len(found), count

    for _, section in walk(recipe.model):
        for line in section.announce(named):
            say(line)
    trunk = getattr(detector, "backbone", None)
    if isinstance(trunk, TimmBackbone):
        widths = ", ".join(map(str, trunk.out_channels))
        say(f"backbone: timm's {trunk.name}, {widths} channels at strides 4 to 32")
        for line in _normalisation(recipe, trunk):
            say(line)


def _normalisation(recipe: Recipe, trunk: TimmBackbone) -> Iterator[str]:
    """Where the images are not normed as those that the public weights were made with."""
    if trunk.mean_std is None:
        return
    order = slice(None, None, -1 if recipe.data.channels == "bgr" else 1)
    mine = {"mean": recipe.data.mean, "std": recipe.data.std}
    for (key, own), theirs in zip(mine.items(), trunk.mean_std, strict=True):
        wanted = theirs[order]
        if any(abs(a - b) > SAME_SHADE for a, b in zip(own, wanted, strict=True)):
            shown = ", ".join(f"{value:.5g}" for value in wanted)
            yield (
                f"data.{key} is {list(own)}, but the weights of timm's {trunk.name} were made "
                f"with [{shown}]; set data.{key} to these"
            )
