"""From candidates to detections, over a whole data set in one call. Never imports torch."""

from detcli.postprocess.columns import missing_column
from detcli.postprocess.ensemble import join_models
from detcli.postprocess.suppress import METHODS, check_method, method_options, suppress

__all__ = [
    "METHODS",
    "check_method",
    "join_models",
    "method_options",
    "missing_column",
    "suppress",
]
