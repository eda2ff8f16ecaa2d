"""Classifiers that tasks edit: the source paper's two networks and the CIFAR ResNet-20."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """conv3×3(16)-ReLU-pool2-conv3×3(32)-ReLU-pool2-FC 128-FC 32-FC 10, the network of Malik
    (2026).

    The paper gives no padding; ours keeps the size ("same"). The layer that the paper edits, 32 ×
    128, is `fc2`.

    Args:
        image_size: Height and width of the one-channel images, at least 4.
        n_classes: Number of outputs.
    """

    def __init__(self, image_size: int = 28, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * (image_size // 4) ** 2, 128)
        self.fc2 = nn.Linear(128, 32)
        self.fc3 = nn.Linear(32, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 1, size, size) -> logits (n, n_classes)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


class BagOfWordsNet(nn.Module):
    """FC 128-64-16-2 with ReLU on a bag of words, the toxicity classifier of Malik (2026); the
    paper edits `fc4`.

    Args:
        vocabulary: Number of words.
        n_classes: Number of outputs.
    """

    def __init__(self, vocabulary: int, n_classes: int = 2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vocabulary, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 16)
        self.fc4 = nn.Linear(16, n_classes)

    def forward(self, counts: Tensor) -> Tensor:
        """Counts of words (n, vocabulary), of any type -> logits (n, n_classes)."""
        x = F.relu(self.fc1(counts.float()))
        return self.fc4(F.relu(self.fc3(F.relu(self.fc2(x)))))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters (option A of He et al. 2016, sect.
    3.3).
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) -> (n, channels, h / stride, w / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding)
            )
        return F.relu(y + x)


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. (2016, sect. 4.2): 3 stages of 3 blocks, 16, 32 and 64
    channels.
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, n_classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            ResidualBlock(channels_in, channels, stride),
            ResidualBlock(channels, channels, 1),
            ResidualBlock(channels, channels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, 32, 32), normalised -> logits (n, n_classes)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))
