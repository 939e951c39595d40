"""SAM 2 weights as transformers' own models save them, for the tests of our reader.

The original's names are brought to transformers' by filling its models, so the reader's table of
names is tested against transformers and not against its own inverse.
"""

import torch
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from pixelis_fast.tools_trt.models.sam2_folder import COPIED_FREQUENCIES, original_names

TINY = {
    "model_type": "sam2_vision_model",
    "backbone_config": {"model_type": "sam2_hiera_det_model"},
    "backbone_channel_list": [768, 384, 192, 96],
}


def save_folders(tensors, folder, *, side):
    """{model type: folder} of SAM2.1-tiny weights given under the original's names."""
    models = {
        "sam2": Sam2Model(Sam2Config(vision_config=TINY)),
        "sam2_video": Sam2VideoModel(Sam2VideoConfig(vision_config=TINY)),
    }
    folders = {}
    for name, model in models.items():
        with torch.no_grad():
            _fill(model, tensors)
        folders[name] = folder / name
        model.save_pretrained(folders[name])
    return folders


def _fill(model, tensors):
    """Finds each tensor's original name by reading the model's own names back."""
    own = model.state_dict()
    points = own.pop("prompt_encoder.point_embed.weight")
    for label, row in enumerate(points):
        row.copy_(tensors[f"sam_prompt_encoder.point_embeddings.{label}.weight"][0])
    own.pop(COPIED_FREQUENCIES).copy_(
        tensors["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    )
    for name, tensor in own.items():
        (theirs,) = original_names({name: tensor})
        tensor.copy_(tensors[theirs])
