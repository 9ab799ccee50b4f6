"""Faster R-CNN with guided anchoring (arXiv 1901.03278): its second stage, on the proposals of a
network that predicts its own anchors."""

from __future__ import annotations

from functools import partial

from detcli.models.faster_rcnn import build_with
from detcli.models.two_stage.guided_rpn import build_guided_rpn

build_ga_faster_rcnn = partial(build_with, build_guided_rpn)
