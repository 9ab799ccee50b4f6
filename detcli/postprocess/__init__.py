"""From candidates to detections, over a whole data set in one call. Never imports torch."""

from detcli.postprocess.ensemble import join_models
from detcli.postprocess.suppress import METHODS, fuses, suppress

__all__ = ["METHODS", "fuses", "join_models", "suppress"]
