"""FaceNet against facenet-pytorch.

That package pins an old torch, and so is installed aside:

    pip install --no-deps --target /tmp/facenet facenet-pytorch
    python -m benchmarks.facenet /tmp/facenet

Both networks get the same random weights, by name, and the same pictures. Prints one JSON line:

    largest_difference  between the embeddings, whose length is 1 (asked for: at most 1e-5)
    same_names          whether the names and shapes of the weights are theirs, with the classifiers
                        of the VGGFace2 and CASIA-WebFace checkpoints
"""

import argparse
import json
import sys
from pathlib import Path

#: Identities of the two published checkpoints, which their classifiers have as outputs.
CLASSES = {"inception_resnet_v1.vggface2": 8631, "inception_resnet_v1.casia": 10575}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="FaceNet against facenet-pytorch.")
    parser.add_argument("folder", type=Path, help="where facenet-pytorch was installed")
    # Behind our own packages: only what we lack is taken from there.
    sys.path.append(str(parser.parse_args().folder))
    import timm
    import torch
    from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1
    from torch import nn

    import synth_pipeline.facenet  # noqa: F401

    torch.manual_seed(0)
    theirs = InceptionResnetV1(pretrained=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            # As if trained: fresh ones do nothing.
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    ours = timm.create_model("inception_resnet_v1", num_classes=0).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        x = torch.randn(4, 3, 160, 160)
        apart = (nn.functional.normalize(ours(x)) - theirs(x)).abs().max()
    same = True
    for name, classes in CLASSES.items():
        assert timm.get_pretrained_cfg(name).num_classes == classes
        published = InceptionResnetV1(classify=True, num_classes=classes).state_dict()
        own = timm.create_model(name, num_classes=classes).state_dict()
        same &= {k: v.shape for k, v in published.items()} == {k: v.shape for k, v in own.items()}
    print(json.dumps({"largest_difference": float(apart), "same_names": same}))


if __name__ == "__main__":
    main()
