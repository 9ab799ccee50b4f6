"""The section model: one class per detector, chosen by its name."""

from typing import Annotated

from pydantic import Field

from detcli.recipe.sections.models.atss import Atss
from detcli.recipe.sections.models.cascade_rcnn import CascadeRcnn
from detcli.recipe.sections.models.centernet import CenterNet
from detcli.recipe.sections.models.deformable_detr import DeformableDetr
from detcli.recipe.sections.models.detr import Detr
from detcli.recipe.sections.models.faster_rcnn import FasterRcnn
from detcli.recipe.sections.models.fcos import Fcos
from detcli.recipe.sections.models.ga_faster_rcnn import GaFasterRcnn
from detcli.recipe.sections.models.ga_retinanet import GaRetinaNet
from detcli.recipe.sections.models.nas_fcos import NasFcos
from detcli.recipe.sections.models.retinanet import RetinaNet
from detcli.recipe.sections.models.ssd import Ssd
from detcli.recipe.sections.models.vfnet import Vfnet
from detcli.recipe.sections.models.yolov4 import YoloV4

Model = Annotated[
    RetinaNet
    | GaRetinaNet
    | Fcos
    | Atss
    | NasFcos
    | Vfnet
    | Ssd
    | CenterNet
    | YoloV4
    | FasterRcnn
    | CascadeRcnn
    | GaFasterRcnn
    | Detr
    | DeformableDetr,
    Field(discriminator="name"),
]
