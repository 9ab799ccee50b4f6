"""What limits a recipe, in words, with the figures that say so."""

from __future__ import annotations

from collections.abc import Iterator

from detcli.engine.profile.loader import LoaderProfile
from detcli.engine.profile.model import Cost, ModelProfile
from detcli.engine.profile.post import PostProfile
from detcli.engine.profile.session import Profile
from detcli.engine.profile.step import DATA_WAIT, StepProfile

WAITING = 0.2  # fraction of a step from which on waiting for images is what limits it
WORTH = 1.05  # times faster from which on a change is worth a word
SHOWN = 2  # phases that are named


def verdict(found: Profile) -> list[str]:
    """Sentences, the one that matters most first."""
    return [*_training(found.step, found.loader), *_inference(found.model, found.post)]


def _training(step: StepProfile | None, loader: LoaderProfile | None) -> Iterator[str]:
    if step is None:
        if loader is not None:
            yield f"loading: {_rate(loader)}"
        return
    if step.data_wait_share >= WAITING:
        waits = f"data-bound: the step waits {step.data_wait_share:.0%} of the time for images"
        yield waits + ("" if loader is None else f"; {_remedy(step, loader)}")
        return
    total = sum(step.phases_ms.values())
    work = {name: ms for name, ms in step.phases_ms.items() if name != DATA_WAIT}
    longest = sorted(work, key=lambda name: work[name], reverse=True)[:SHOWN]
    shares = " and ".join(f"{name} {work[name] / total:.0%}" for name in longest)
    yield (
        f"compute-bound: of a step of {total:.1f} ms, {shares}; it waits "
        f"{step.data_wait_share:.0%} of the time for images"
    )
    yield from _faster(step)


def _rate(loader: LoaderProfile) -> str:
    """What the loader delivers, and what it could."""
    found = f"{loader.current.images_per_s:.1f} images/s as in the recipe"
    if loader.gain < WORTH:
        return f"{found}, no other setting that was tried is clearly faster"
    return f"{found}; {_settings(loader)} would give {loader.gain:.1f} times as many"


def _settings(loader: LoaderProfile) -> str:
    """What would have to change, as one would type it."""
    now, then = loader.current.setting, loader.recommended.setting
    return " ".join(
        override
        for override in then.overrides()
        for key in [override.removeprefix("data.").partition("=")[0]]
        if getattr(now, key) != getattr(then, key)
    )


def _remedy(step: StepProfile, loader: LoaderProfile) -> str:
    """How much faster training gets with the recommended loading: at most as fast as the rest of
    the step is without waiting."""
    if loader.gain < WORTH:
        return (
            "no other setting of the loader that was tried is clearly faster: smaller image "
            "files, fewer augmentations, or more cores would be"
        )
    # Workers load while the step does its work: it takes as long as the slower of the two.
    without_waiting = step.images_per_s / (1 - step.data_wait_share)
    rate = min(without_waiting, loader.recommended.images_per_s)
    gain = rate / step.images_per_s
    return f"{_settings(loader)} would give {gain:.1f} times as many images a second"


def _faster(step: StepProfile) -> Iterator[str]:
    """The settings whose steps were faster in three turns of four."""
    gains = {
        row.name: 1 / row.ratio.median
        for row in step.variants[1:]
        if row.ratio is not None and row.ratio.high < 1 / WORTH
    }
    for name, gain in sorted(gains.items(), key=lambda item: item[1], reverse=True):
        yield f"{name} would make the step {gain:.2f} times as fast"


def _inference(model: ModelProfile | None, post: PostProfile | None) -> Iterator[str]:
    if model is not None:
        yield _heaviest(model)
        if model.fused is not None:
            yield _fusion(model, model.fused)
    if post is None:
        return
    used, share, why = post.results[0], "", ""
    if model is not None:
        alone = 1000 / model.cost.latencies[0].images_per_s
        share = (
            f", {used.ms_per_image / (alone + used.ms_per_image):.0%} of network and suppression"
        )
    if post.lifted:
        why = "; random weights, so the maximum number of candidates"
    yield f"suppression ({used.spec.name}): {used.ms_per_image:.2f} ms an image{share}{why}"


def _heaviest(model: ModelProfile) -> str:
    """Where the multiply-adds are."""
    total = model.cost.macs.total
    children = [part for part in model.parts if part.depth == 1]
    most = max(children, key=lambda part: part.macs)
    return f"network: {most.macs / total:.0%} of {total / 1e9:.3g} GMACs are in the {most.name}"


def _fusion(model: ModelProfile, fused: Cost) -> str:
    """What fusing its convolutions is worth."""
    before, after = model.cost.latencies[0], fused.latencies[0]
    gain = after.images_per_s / before.images_per_s
    return (
        f"fused (`detcli export`), the network is {gain:.2f} times as fast: "
        f"{len(model.fused_names)} parts become plain convolutions"
    )
