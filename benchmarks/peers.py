"""The networks of torchvision, timm and keras-applications.

Each function imports its own framework: two in one process can crash it.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from worker import BATCH_NORM, RATE, randomise_batch_norm

KERAS_APPLICATIONS = {"resnext50_32x4d": "ResNeXt50", "resnext101_32x4d": "ResNeXt101"}


def torch_model(work, channels_last=False, compiled=False):
    """The network as it is, with the channels last, or through `torch.compile`."""
    network = torch_network(work)
    predict, train = torch_calls(work, network, channels_last, compiled)
    network.train(work.task == "train")
    return train if work.task == "train" else predict


def torch_calls(work, network, channels_last=False, compiled=False):
    """Functions for one prediction and for one training step of a network."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = work.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = work.precision == "tf32"
    torch.set_num_threads(work.threads)
    device = "cuda" if work.device == "gpu" else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.from_numpy(channels_first(work)).to(device, memory_format=layout)
    labels = torch.from_numpy(work.labels).to(device)
    network.to(device, memory_format=layout)
    forward = torch.compile(network) if compiled else network
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=0.9)
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(work.precision)
    scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)

    def mixed():
        return torch.autocast(device, half, enabled=half is not None)

    def predict():
        with torch.inference_mode(), mixed():
            return forward(images).cpu()

    def train():
        optimizer.zero_grad()
        with mixed():
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if device == "cuda":
            torch.cuda.synchronize()

    return predict, train


def reference(work, folder):
    """Saves a random network, its logits, and the gradients of one training step.

    Its statistics are frozen. From those of a batch, rounding grows until a ReLU is on
    here and off there, which moves gradients by per cents.
    """
    import torch

    torch.manual_seed(0)
    network = torch_network(work).eval()
    torch.save(network.state_dict(), Path(folder, "weights.pth"))
    predict, train = torch_calls(work, network)
    np.save(Path(folder, "logits.npy"), predict().numpy())
    train()
    gradients = {name: p.grad.cpu() for name, p in network.named_parameters()}
    torch.save(gradients, Path(folder, "gradients.pth"))
    return {"library": type(network).__module__.split(".")[0]}


def torch_network(work):
    """The network of torchvision, or else of timm, with random weights."""
    import torch

    network = new_torch_network(work.spec, work.classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            norm = module.weight, module.bias, module.running_mean, module.running_var
            for values, limits in zip(norm, BATCH_NORM, strict=True):
                values.data.uniform_(*limits)
    return network


def new_torch_network(spec, classes):
    import torchvision

    if spec["name"] in torchvision.models.list_models():
        return torchvision.models.get_model(spec["name"], num_classes=classes)
    import timm
    from timm.models.resnet import Bottleneck, ResNet

    if timm.is_model(spec["name"]):
        return timm.create_model(spec["name"], num_classes=classes)
    if spec["stem"] != "imagenet":
        raise ValueError("neither torchvision nor timm has this network")
    # timm has no name for the widest network and for the one of 152 layers.
    return ResNet(
        Bottleneck,
        spec["depths"],
        num_classes=classes,
        cardinality=spec["cardinality"],
        base_width=spec["group_width"],
    )


def onnxruntime_model(work):
    """ONNX Runtime on torch's export."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    with torch_export(work) as path:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    images = channels_first(work)
    return lambda: session.run(None, {"images": images})


def openvino_model(work):
    """OpenVINO on torch's export."""
    import openvino

    # By default it computes in bfloat16 on processors that have it.
    hint = "bf16" if work.precision == "bfloat16" else "f32"
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": work.threads}
    with torch_export(work) as path:
        compiled = openvino.compile_model(openvino.convert_model(path), "CPU", options)
    images = channels_first(work)
    return lambda: compiled(images)


def channels_first(work):
    return np.ascontiguousarray(np.moveaxis(work.images, -1, 1))


@contextlib.contextmanager
def torch_export(work):
    """The .onnx file, written by another process, whose memory does not count."""
    fields = {k: getattr(work, k) for k in ("spec", "classes", "batch", "size")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        program = [sys.executable, __file__, json.dumps(fields), str(path)]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "it crashed").splitlines()[-1])
        yield path


def write_export(work, path):
    import torch

    # From the old exporter, which needs no other package.
    warnings.simplefilter("ignore", DeprecationWarning)
    images = torch.zeros(work.batch, 3, work.size, work.size)
    network = torch_network(work).eval()
    torch.onnx.export(network, (images,), path, input_names=["images"], dynamo=False)


def keras_applications_model(work):
    """ResNeXt of keras-applications 1.0.8, on Keras 2."""
    import tensorflow as tf
    import tf_keras
    from keras_applications import resnext

    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    images, labels = map(tf.constant, (work.images, work.labels))
    network = getattr(resnext, KERAS_APPLICATIONS[work.spec["name"]])(
        weights=None,
        input_shape=(work.size, work.size, 3),
        classes=work.classes,
        # It takes Keras' modules as arguments.
        backend=tf_keras.backend,
        layers=tf_keras.layers,
        models=tf_keras.models,
        utils=tf_keras.utils,
    )
    randomise_batch_norm(network)
    if work.task == "predict":
        function = tf.function(lambda images: network(images, training=False))
        return lambda: function(images).numpy()
    network.compile(
        tf_keras.optimizers.SGD(RATE, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    return lambda: network.train_on_batch(images, labels)


if __name__ == "__main__":
    write_export(SimpleNamespace(**json.loads(sys.argv[1])), sys.argv[2])
