"""DINOv2's linear probes: files that hold a head alone, trained on a published backbone.

Source: dinov2/eval/segmentation/models/decode_heads/linear_head.py. The backbone's file,
dinov2_vits14_pretrain.pth or timm's of it, has timm's names.
"""

from perpixel.conversion.toolkit import Toolkit
from perpixel.recipes.models import FCN, Model, Timm
from perpixel.recipes.schema import Inference, Input

DINOV2 = Toolkit(
    name="dinov2",
    name_map=(("decode_head.bn", "head.norm"), ("decode_head.conv_seg", "head.classifier")),
    fcn=Model(
        backbone=Timm(name="vit_small_patch14_dinov2", final_norm=True, as_published=True),
        head=FCN(num_convs=0, input_norm=True, dropout=0.0),
    ),
    semantic_fpn=None,
    input=Input(),
    inference=Inference(
        base_size=(2048, 512), mode="slide", window_size=(512, 512), stride=(341, 341)
    ),
    head_alone=True,
)
