"""Which layers are edited by default: `python -m benchmarks.studies.default_sites --out PAGE`.

Prints a Markdown page with what `discover_sites` chooses in torchvision's families of networks, or
writes it into PAGE. The networks have no weights: only their shapes are looked at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from editgym.weights import EditSite, discover_sites

# One network of each of torchvision's families of classifiers.
FAMILIES: Mapping[str, Callable[..., nn.Module]] = {
    "AlexNet": models.alexnet,
    "VGG": models.vgg16,
    "SqueezeNet": models.squeezenet1_1,
    "ResNet, basic blocks": models.resnet18,
    "ResNet, bottlenecks": models.resnet50,
    "ResNeXt": models.resnext50_32x4d,
    "DenseNet": models.densenet121,
    "GoogLeNet": models.googlenet,
    "Inception v3": models.inception_v3,
    "MNASNet": models.mnasnet1_0,
    "MobileNet v2": models.mobilenet_v2,
    "MobileNet v3": models.mobilenet_v3_small,
    "ShuffleNet v2": models.shufflenet_v2_x1_0,
    "EfficientNet": models.efficientnet_b0,
    "EfficientNet v2": models.efficientnet_v2_s,
    "RegNet": models.regnet_y_400mf,
    "ConvNeXt": models.convnext_tiny,
    "ViT": models.vit_b_16,
    "Swin": models.swin_t,
    "Swin v2": models.swin_v2_t,
    "MaxViT": models.maxvit_t,
}
_ON_A_DEVICE = (models.regnet_y_400mf,)  # its constructor computes widths with tensors
_NUMBER = re.compile(r"\d+")
_PAGE = """# Default sites

Where `sites` is left out, as in `unlearning/custom` and `debiasing/transformer`, `discover_sites`
chooses the layers that are edited:

- In a network with a stack of MLP blocks, such as a transformer: the MLPs' output layers of the
  middle-to-late third of its blocks.
- Otherwise, in one with hidden `nn.Linear` layers: the last hidden one.
- Otherwise: the convolutions of the last stage, that is, of the coarsest resolution, that are
  larger than 1×1. In place of a depthwise or grouped convolution stands the 1×1 convolution after
  it, which mixes its channels. A network that has one resolution throughout ends in as many
  convolutions as have the last one's width.

Auxiliary heads, squeeze-and-excitation gates, embeddings, projections of patches and the input
projections of attention are never among them. All of them can be named, though: `sites` takes every
`nn.Linear`, `nn.Conv2d` (with groups as well) and `Conv1D` of `transformers`, and the input
projections of an `nn.MultiheadAttention` by its name and `in_proj`.

```python
from torchvision.models import mobilenet_v2
from editgym.weights import discover_sites, editable_sites

network = mobilenet_v2(num_classes=10)
print([str(site) for site in discover_sites(network)])
print(len(editable_sites(network)), "layers can be named")
```

What it chooses in torchvision's families, for 1,000 classes. `{{2–5}}` stands for the numbers from
2 to 5. `python -m benchmarks.studies.default_sites --out docs/default-sites.md` writes this page,
and a test compares it with the code; another edits each family's default sites and compares the
scores of candidates with networks whose weights were changed by hand.

| family | network | default sites | matrices |
|---|---|---|---|
{rows}
"""


def built(builder: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    """A network of a family in evaluation mode, with random weights.

    Args:
        builder: One of `FAMILIES`.
        arguments: Arguments of it.
    """
    if builder in (models.googlenet, models.inception_v3):
        arguments = {"init_weights": False, **arguments}  # else it warns that this takes long
    return builder(weights=None, **arguments).eval()


def page() -> str:
    """The page, as Markdown."""
    return _PAGE.format(rows="\n".join(map(_row, FAMILIES)))


def numbered(names: Sequence[str]) -> list[str]:
    """Names, where those that differ in one number that counts up are one.

    Example:
        >>> numbered(["block1.conv", "block2.conv", "block3.conv", "fc"])
        ['block{1–3}.conv', 'fc']
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_NUMBER.sub("#", name), []).append(name)
    return [one for group in alike.values() for one in _as_one(group)]


def _as_one(names: Sequence[str]) -> Sequence[str]:
    numbers = [[int(found) for found in _NUMBER.findall(name)] for name in names]
    differ = [
        place for place, values in enumerate(zip(*numbers, strict=True)) if len(set(values)) > 1
    ]
    if len(names) < 3 or len(differ) != 1:
        return names
    first, last = numbers[0][differ[0]], numbers[-1][differ[0]]
    if [row[differ[0]] for row in numbers] != list(range(first, last + 1)):
        return names
    found = list(_NUMBER.finditer(names[0]))[differ[0]]
    return [f"{names[0][: found.start()]}{{{first}–{last}}}{names[0][found.end() :]}"]


def _row(family: str) -> str:
    builder = FAMILIES[family]
    with torch.device("cpu" if builder in _ON_A_DEVICE else "meta"):
        sites = discover_sites(built(builder))
    names = ", ".join(f"`{name}`" for name in numbered([site.name for site in sites]))
    return f"| {family} | `{builder.__name__}` | {names} | {_matrices(sites)} |"


def _matrices(sites: Sequence[EditSite]) -> str:
    shapes = [f"{rows:,} × {columns:,}" for rows, columns in (site.shape for site in sites)]
    return ", ".join(
        shape if shapes.count(shape) == 1 else f"{shapes.count(shape)} of {shape}"
        for shape in dict.fromkeys(shapes)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.default_sites",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="PAGE", help="write the page into this file")
    options = parser.parse_args(arguments)
    if options.out is None:
        print(page(), end="")
        return 0
    try:
        options.out.write_text(page(), encoding="utf-8")
    except OSError as error:
        print(f"error: --out: cannot write {options.out}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
