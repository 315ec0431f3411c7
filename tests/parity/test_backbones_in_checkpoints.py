"""Files of detectors and segmenters give the features of the encoder within."""

import argparse
import subprocess
import sys

import numpy as np
import pytest
from random_state import draw_images, draw_state
from weight_files import without_classifier

import resnext_keras
from resnext_keras import feature_pyramid
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve

pytestmark = [
    pytest.mark.parity,
    # torch looks for a GPU, and may not like what it finds.
    pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning"),
]

IMAGES = draw_images(5, (2, 77, 66, 3))
LEVELS = ("C2", "C3", "C4", "C5")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def smp():
    return pytest.importorskip("segmentation_models_pytorch")


@pytest.fixture(scope="module")
def models():
    return pytest.importorskip("torchvision.models")


def drawn(torch, network):
    """The network with drawn weights and batch statistics, in all of its parts."""
    state = network.state_dict()
    for key, value in draw_state({k: tuple(v.shape) for k, v in state.items()}).items():
        state[key].copy_(torch.from_numpy(value))
    return network.eval()


@pytest.fixture
def check(torch, relative_error):
    """Checks the architecture found in a file and the features of each level."""

    def check_features(path, architecture, encoder, **options):
        assert resolve(path).spec.name == architecture
        assert resolve(path).classes is None
        pyramid = feature_pyramid(
            resnext_keras.ResNeXt(architecture, False, path, **options)
        )
        with torch.no_grad():
            maps = encoder(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
        found = pyramid(IMAGES)
        for level, expected in zip(LEVELS, maps, strict=True):
            expected = expected.permute(0, 2, 3, 1).numpy()
            assert relative_error(found[level], expected) <= 1e-4, level

    return check_features


@pytest.mark.parametrize(
    ("encoder", "architecture"),
    [
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
        ("tu-seresnext26t_32x4d", "seresnext26t_32x4d"),  # one of timm
    ],
)
def test_segmentation_models_pytorch(
    torch, smp, tmp_path, check, caplog, encoder, architecture
):
    network = drawn(torch, smp.Unet(encoder, encoder_weights=None))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "unet.pth")
    network.save_pretrained(tmp_path / "unet")
    for path in (tmp_path / "unet.pth", tmp_path / "unet" / "model.safetensors"):
        check(path, architecture, lambda x: network.encoder(x)[-4:])
        assert "are left out: 'decoder." in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    ("kind", "frozen"), [("FasterRCNN", True), ("MaskRCNN", False), ("RetinaNet", True)]
)
def test_a_detector_of_torchvision(
    torch, models, tmp_path, check, caplog, kind, frozen
):
    """As its reference script saves it; frozen norms have no counters of batches."""
    import torchvision

    norm = torchvision.ops.FrozenBatchNorm2d if frozen else torch.nn.BatchNorm2d
    detection = models.detection
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnext50_32x4d", weights=None, norm_layer=norm
    )
    network = drawn(torch, getattr(detection, kind)(backbone, 91))
    path = tmp_path / "model_25.pth"
    args = argparse.Namespace(lr=0.02, dataset="coco")
    torch.save({"model": network.state_dict(), "args": args, "epoch": 25}, path)
    check(path, "resnext50_32x4d", lambda x: backbone.body(x).values())
    assert "are left out: 'backbone.fpn." in caplog.text


@pytest.mark.parametrize(("kind", "auxiliary"), [("deeplabv3", True), ("fcn", False)])
def test_a_segmenter_of_torchvision(
    torch, models, tmp_path, check, caplog, kind, auxiliary
):
    segmentation = models.segmentation
    dilated = [False, True, True]
    backbone = models.resnext50_32x4d(replace_stride_with_dilation=dilated)
    layers = {f"layer{n}": f"C{n + 1}" for n in (1, 2, 3, 4)}
    body = models._utils.IntermediateLayerGetter(backbone, layers)
    if kind == "deeplabv3":
        head = segmentation.deeplabv3.DeepLabHead(2048, 21)
        network = segmentation.DeepLabV3
    else:
        head, network = segmentation.fcn.FCNHead(2048, 21), segmentation.FCN
    extra = segmentation.fcn.FCNHead(1024, 21) if auxiliary else None
    network = drawn(torch, network(body, head, extra))
    torch.save(network.state_dict(), tmp_path / "model.pth")
    check(
        tmp_path / "model.pth",
        "resnext50_32x4d",
        lambda x: body(x).values(),
        output_stride=8,
    )
    assert "are left out: 'classifier." in caplog.text


def test_a_published_detector_of_mmdetection(torch, models, tmp_path, check, caplog):
    """Its ResNeXt has torchvision's names, beside parts of others."""
    network = drawn(torch, models.resnext50_32x4d())
    state = {
        f"backbone.{key}": value
        for key, value in network.state_dict().items()
        if not key.startswith("fc.")
    }
    for key in (
        "neck.lateral_convs.0.conv",
        "rpn_head.rpn_conv",
        "roi_head.bbox_head.fc_cls",
        "roi_head.bbox_head.shared_fcs.0",
    ):
        state |= {f"{key}.weight": torch.ones(4, 4), f"{key}.bias": torch.ones(4)}
    meta = {"CLASSES": ("person", "car"), "mmdet_version": "2.3.0", "hook_msgs": {}}
    path = tmp_path / "faster_rcnn_x50_32x4d_fpn_1x_coco.pth"
    torch.save({"meta": meta, "state_dict": state}, path)
    body = models._utils.IntermediateLayerGetter(
        network, {f"layer{n}": f"C{n + 1}" for n in (1, 2, 3, 4)}
    )
    check(path, "resnext50_32x4d", lambda x: body(x).values())
    assert "are left out: 'neck.lateral_convs" in caplog.text


# Trains a ResNeXt backbone with mmengine, as mmdetection does, and saves its average
# too. In a process of its own, since mmengine changes settings of the process.
MMENGINE = """
import sys, timm, torch, warnings
warnings.simplefilter("ignore")
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Images(torch.utils.data.Dataset):
    metainfo = {"classes": ("person", "car"), "palette": [(220, 20, 60)]}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"inputs": torch.randn(3, 32, 32, generator=generator)}

class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        resnet = timm.models.resnet
        self.backbone = resnet.ResNet(
            resnet.Bottleneck, (1, 1, 1, 1), 0, cardinality=2, base_width=4,
            zero_init_last=False,
        )
        self.neck = torch.nn.Conv2d(2048, 4, 1)

    def forward(self, inputs, mode="loss"):
        maps = self.neck(self.backbone.forward_features(inputs))
        return {"loss": maps.square().mean()}

runner = Runner(
    Detector(),
    sys.argv[1],
    dict(
        dataset=Images(),
        sampler=dict(type="DefaultSampler"),
        collate_fn=dict(type="default_collate"),
        batch_size=2,
        num_workers=0,
    ),
    train_cfg=dict(by_epoch=True, max_epochs=1),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.05)),
    param_scheduler=[dict(type="LinearLR", by_epoch=False, end=5),
                     dict(type="MultiStepLR", milestones=[1])],
    custom_hooks=[dict(type="EMAHook", momentum=0.4, update_buffers=True)],
)
runner.train()
averaged = next(h for h in runner.hooks if type(h).__name__ == "EMAHook").ema_model
torch.save(averaged.module.backbone.state_dict(), sys.argv[1] + "/averaged.pth")
torch.save(runner.model.backbone.state_dict(), sys.argv[1] + "/trained.pth")
"""


def test_a_training_run_of_mmengine(tmp_path, caplog):
    """It saves the averaged network as `state_dict`, the other as `ema_state_dict`."""
    pytest.importorskip("mmengine")
    done = subprocess.run(
        [sys.executable, "-c", MMENGINE, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spec = resnext_keras.ResNeXtSpec("short", (1, 1, 1, 1), 2, 4)
    tensors = {}
    for name in ("epoch_1", "averaged", "trained"):
        with resolve(tmp_path / f"{name}.pth", spec).open(
            without_classifier(variable_shapes(spec))
        ) as opened:
            tensors[name] = {key: tensor.read() for key, tensor in opened.items()}
    for name, value in tensors["epoch_1"].items():
        np.testing.assert_array_equal(value, tensors["averaged"][name], err_msg=name)
        assert not np.array_equal(value, tensors["trained"][name]), name
    assert "averaged weights 'state_dict'" in caplog.text
    assert "are left out: 'neck.weight', 'neck.bias'" in caplog.text
