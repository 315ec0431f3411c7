"""Writes torch_files.tar.xz: one drawn state as torch itself saves it, in many ways.

    python tests/golden/make_torch_files.py

needs torch and torchvision (the extra `parity`). The numbers are those of
`torch_state(SMALLEST)` in tests/support/weight_files.py, so they are not stored a
second time. Compressed together, the copies take little more than one.
"""

import argparse
import io
import sys
import tarfile
import warnings
from pathlib import Path

# triton's LLVM and TensorFlow's, which weight_files imports, crash one process.
sys.modules["triton"] = None
FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "support"), str(FOLDER.parents[1])]

import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import nn  # noqa: E402
from weight_files import SMALLEST, torch_state  # noqa: E402

FORMATS = {"zip": True, "legacy": False}


def drawn_state():
    """The drawn state, as torch's own `state_dict` would hold it."""
    return {
        name: torch.from_numpy(value) for name, value in torch_state(SMALLEST).items()
    }


def state_of_a_module():
    """The same, from a module: an OrderedDict with the versions of its modules."""
    root = nn.Module()
    for name, value in drawn_state().items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if last in ("weight", "bias"):
            module.register_parameter(last, nn.Parameter(value))
        else:
            module.register_buffer(last, value)
    return root.state_dict(), dict(root.named_parameters()), dict(root.named_buffers())


def views():
    """The same in storages that it shares, transposes, widens and leaves holes in."""
    state = drawn_state()
    vectors = [name for name, value in state.items() if value.dim() == 1]
    shared = torch.cat([state[name] for name in vectors])
    ends = torch.tensor([len(state[name]) for name in vectors]).cumsum(0).tolist()
    for name, end in zip(vectors, ends, strict=True):
        state[name] = shared[end - len(state[name]) : end]
    for name, value in state.items():
        if value.dim() == 4:
            state[name] = value.contiguous(memory_format=torch.channels_last)
    state["fc.weight"] = state["fc.weight"].t().contiguous().t()
    state["conv1.weight"] = state["conv1.weight"].repeat_interleave(2, 0)[::2]
    wider = torch.zeros(300, 3)
    wider[20 : 20 + 256, 1] = state["layer1.0.bn3.bias"]
    state["layer1.0.bn3.bias"] = wider[20 : 20 + 256, 1]
    state["bn1.running_var"] = torch.tensor(1.5).expand(64)
    assert not state["fc.weight"].is_contiguous()
    return state


def converted(dtype):
    """The same in another type; the counters of batches stay whole."""
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in drawn_state().items()
    }


def prefixed(prefix):
    """The same, as of a module within another."""
    return {f"{prefix}{name}": value for name, value in drawn_state().items()}


def wrapped():
    """The same as training scripts save it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    zeros = {name: torch.zeros_like(value) for name, value in drawn_state().items()}
    heads = ("fc.weight", "fc.bias")
    return {
        "timm": {
            "epoch": 3,
            "arch": "resnext50_32x4d",
            "state_dict": prefixed("module."),
            "optimizer": optimizer.state_dict(),
            "version": 2,
            "args": argparse.Namespace(lr=0.1, model="resnext50_32x4d", mean=[0.5]),
            "metric": 81.1,
        },
        "averaged": {"state_dict": zeros, "state_dict_ema": drawn_state()},
        "averaged_model": {"state_dict_ema": None, "model_ema": drawn_state()},
        "fixres": {"model": prefixed("module."), "epoch": 3},
        "mmpretrain": {
            "meta": {"mmcls_version": "0.12.0", "CLASSES": ["tench", "goldfish"]},
            "state_dict": {
                f"head.{name}" if name in heads else f"backbone.{name}": value
                for name, value in drawn_state().items()
            },
        },
    }


def contents():
    """What is saved, by the beginning of the file's name."""
    state, parameters, buffers = state_of_a_module()
    return wrapped() | {
        "state": state,
        "parameters": parameters | buffers,
        "views": views(),
        "float16": converted(torch.float16),
        "bfloat16": converted(torch.bfloat16),
        "float64": converted(torch.float64),
        # From here on no state, or of other tensors than plain ones.
        "module": torchvision.models.resnet.BasicBlock(2, 2),
        "tensor": torch.ones(3),
        "sparse": drawn_state() | {"fc.bias": torch.ones(5).to_sparse()},
        "quantized": drawn_state()
        | {"fc.bias": torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)},
        "complex": drawn_state() | {"fc.bias": torch.ones(5, dtype=torch.complex64)},
        "float8": drawn_state() | {"fc.bias": torch.ones(5, dtype=torch.float8_e4m3fn)},
    }


def scripted():
    """An archive of TorchScript, which holds code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def main():
    torch.manual_seed(0)
    files = {"torchscript.pt": scripted()}
    for name, value in contents().items():
        for form, zipped in FORMATS.items():
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=zipped)
            files[f"{name}.{form}.pth"] = file.getvalue()
    del files["module.legacy.pth"]  # it has the path of torchvision
    for protocol in (3, 4, 5):
        for form, zipped in FORMATS.items():
            file = io.BytesIO()
            state, _, _ = state_of_a_module()
            torch.save(
                state,
                file,
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=zipped,
            )
            files[f"protocol{protocol}.{form}.pth"] = file.getvalue()
    with tarfile.open(FOLDER / "torch_files.tar.xz", "w:xz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
