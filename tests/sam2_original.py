"""The original release's model with seeded weights: the truth that our graphs are compared with."""

from collections.abc import Sequence
from typing import Any

import torch

CONFIGS = {
    "tiny": "hiera_t",
    "small": "hiera_s",
    "base_plus": "hiera_b+",
    "large": "hiera_l",
}


def original(
    size: str,
    *,
    side: int,
    version: str = "2.1",
    dynamic_choice: bool = True,
    overrides: Sequence[str] = (),
) -> Any:
    """Its video predictor; every tensor differs from its default. overrides are hydra's."""
    from sam2.build_sam import build_sam2_video_predictor

    grid = f"[{side // 16},{side // 16}]"
    attention = "++model.memory_attention.layer"
    at_side = [
        f"++model.image_size={side}",
        f"{attention}.self_attention.feat_sizes={grid}",
        f"{attention}.cross_attention.feat_sizes={grid}",
    ]
    torch.manual_seed(0)
    name = f"configs/sam{version}/sam{version}_{CONFIGS[size]}.yaml"
    model = build_sam2_video_predictor(
        name,
        None,
        device="cpu",
        hydra_overrides_extra=[*at_side, *overrides],
        apply_postprocessing=dynamic_choice,
    )
    _stir(model)
    return model


def _stir(model: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.ndim <= 1 or tensor.shape[0] == 1:
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    # Default weights give logits near zero, where any two models agree.
    for head in model.sam_mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.data *= 20
    # The object stays visible: a lost one's logits are one constant.
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data += 1
