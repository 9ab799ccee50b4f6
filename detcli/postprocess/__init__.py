"""From candidates to detections, over a whole data set in one call. Never imports torch."""

from detcli.postprocess.suppress import METHODS, suppress

__all__ = ["METHODS", "suppress"]
