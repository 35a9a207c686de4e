"""The published PyTorch networks, with weights by formula, and the output of each of their layers.

Needs torch, torchvision and pretrainedmodels (`pip install --no-deps torchvision pretrainedmodels munch` beside torch).
"""

import formula_weights
import numpy as np
import torch


def _import_torchvision():
    try:
        import torchvision
    except (RuntimeError, AttributeError):
        # torchvision built for another torch: its own operators are missing, the networks do not use them.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _import_torchvision.kept = library
        import torchvision
    return torchvision


def network(name):
    """The reference network, in inference mode, and what brings RGB images in [0, 255] to its values."""
    if name == "bn_inception":
        _import_torchvision()
        from pretrainedmodels.models.bninception import BNInception, pretrained_settings

        settings = pretrained_settings["bninception"]["imagenet"]
        assert settings["input_space"] == "BGR"
        assert settings["input_range"] == [0, 255]
        mean = torch.tensor(settings["mean"])[:, None, None]
        return BNInception().eval(), lambda x: x.flip(1) - mean
    models = _import_torchvision().models
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    if name == "googlenet":
        # As torchvision loads the published weights: it converts the usual normalization to [-1, 1] itself.
        built = models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True)
    else:
        built = models.resnet50(weights=None)
    return built.eval(), lambda x: (x / 255 - mean) / deviation


def fill(reference):
    """Sets all weights by formula."""
    with torch.no_grad():
        for name, value in reference.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value.copy_(torch.from_numpy(formula_weights.weight(name, tuple(value.shape))))


def layer_outputs(name):
    """The output of every convolution and batch normalization, and the last feature map as "features".

    Arrays `(batch, height, width, channels)` by the name of the module.
    """
    reference, preprocess = network(name)
    fill(reference)
    outputs = {}

    def keep(key):
        def hook(module, inputs, output):
            # Copied, since a ReLU works in place.
            outputs[key] = output.detach().clone().permute(0, 2, 3, 1).numpy()

        return hook

    for key, module in reference.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(keep(key))
    last = {"resnet50": "layer4", "googlenet": "inception5b"}.get(name)
    if last:
        reference.get_submodule(last).register_forward_hook(keep("features"))
    x = preprocess(torch.from_numpy(formula_weights.images(name).transpose(0, 3, 1, 2).copy()))
    with torch.no_grad():
        if last:
            reference(x)
        else:
            outputs["features"] = reference.features(x).permute(0, 2, 3, 1).numpy()
    return {key: np.ascontiguousarray(value) for key, value in outputs.items()}
