"""The networks of torchvision, or else of timm, in PyTorch."""

import runpy
from pathlib import Path

import torch
from inputs import batch

TORCH_REFERENCE = Path(__file__).parents[2] / "torch_reference.py"

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False


def model(work, channels_last=False, compiled=False):
    """The network as it is, with the channels last, or through `torch.compile`."""
    torch.set_num_threads(work.threads)
    device = torch.device("cuda" if work.device == "gpu" else "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, labels = map(torch.from_numpy, batch(work))
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=layout).to(device)
    labels = labels.to(device)
    network = build(work).to(device, memory_format=layout)
    network.train(work.task == "train")
    forward = torch.compile(network) if compiled else network
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def predict():
        with torch.inference_mode():
            return forward(images).cpu()

    def train():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return train if work.task == "train" else predict


def build(work):
    """The network with random weights."""
    find = runpy.run_path(str(TORCH_REFERENCE))["find_network"]
    _, network = find(work.network)
    if network is None:
        raise ValueError("neither torchvision nor timm has this network")
    return network
