"""Small networks of every kind of site, and edits for them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.weights import (
    DenseUpdate,
    EditableNetwork,
    LowRankFactors,
    Mask,
    ReplaceTensors,
    Shift,
    SiteEdit,
    editable_sites,
    find_sites,
)


class Conv1DNet(nn.Module):
    """An MLP out of the transposed linear layers of GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Conv1D(24, 12), Conv1D(5, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class SuffixNames(nn.Module):
    """Two pairs of sites whose names end alike: `fc` and `tail.fc`, `conv` and `tail.conv`."""

    def __init__(self, nested: bool = True) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(6, 5)
        if nested:
            self.tail = SuffixNames(nested=False)
            self.tail.conv, self.tail.fc = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.tail.conv(torch.relu(self.conv(x)))).mean(dim=(2, 3))
        return self.fc(torch.relu(self.tail.fc(x)))


class LogitsOnly(nn.Module):
    """A language model as a map from token ids to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).logits


def tiny_gpt2(**settings: object) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=6,
            n_embd=16,
            n_head=2,
            vocab_size=50,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
            **settings,
        )
    )


def tiny_llama(n_layers: int = 6) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=n_layers,
            hidden_size=16,
            intermediate_size=24,
            vocab_size=50,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=16,
        )
    )


@dataclass(frozen=True)
class Kind:
    """How to make a network, an input for it, and which of its weights are sites."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    sites: tuple[str, ...]


KINDS = {
    "linear": Kind(lambda: SmallConvNet(8), lambda n: torch.rand(n, 1, 8, 8), ("fc2", "fc3")),
    "conv2d": Kind(lambda: SmallConvNet(8), lambda n: torch.rand(n, 1, 8, 8), ("conv2", "fc2")),
    "conv1d": Kind(Conv1DNet, lambda n: torch.randn(n, 12), ("first", "second")),
    "suffix names": Kind(
        SuffixNames, lambda n: torch.randn(n, 1, 6, 6), ("fc", "tail.fc", "conv", "tail.conv")
    ),
    "resnet": Kind(ResNet20, lambda n: torch.randn(n, 3, 32, 32), ("layer3.*.conv*",)),
    "llama": Kind(tiny_llama, lambda n: torch.randint(50, (n, 7)), ("*.mlp.down_proj",)),
    "gpt2": Kind(
        lambda: LogitsOnly(tiny_gpt2()), lambda n: torch.randint(50, (n, 7)), ("*.mlp.c_proj",)
    ),
}


@pytest.fixture(scope="session")
def build():
    """`build(kind)`: a network with seeded random weights."""

    def make(kind: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = KINDS[kind].build().eval()
            # Batch norms of a new network are the identity, and an edit that forgot them would not
            # show.
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
        return model

    return make


@pytest.fixture(scope="session")
def inputs():
    """`inputs(kind, n)`."""
    return lambda kind, n=9: KINDS[kind].inputs(n)


@pytest.fixture
def editable(build, inputs):
    """`editable(kind)`: an unedited `EditableNetwork`."""

    def make(kind: str = "linear", sites: tuple[str, ...] | None = None) -> EditableNetwork:
        model = build(kind)
        return EditableNetwork(
            model, find_sites(model, sites or KINDS[kind].sites), inputs(kind, 4)
        )

    return make


@pytest.fixture
def network(editable):
    """An unedited SmallConvNet, `fc2` and `fc3` open for edits."""
    return editable("linear")


ENTRY_KINDS = ("low_rank_shift", "low_rank_mask", "dense_shift", "dense_mask", "replace_tensors")


@pytest.fixture(scope="session")
def make_edit():
    """`make_edit(network, entry kind, site index, step)`: a random edit that changes the logits."""

    def make(
        network: EditableNetwork,
        kind: str = "low_rank_shift",
        site: int = 0,
        step: int = 0,
        rank: int = 2,
    ):
        if kind == "replace_tensors":
            chosen = [
                name for name, tensor in network.state_dict().items() if tensor.is_floating_point()
            ]
            tensors = {
                name: 0.1 * torch.randn_like(network.state_dict()[name])
                for name in (chosen[0], chosen[-1])
            }
            return ReplaceTensors(tensors, step)
        edited = network.sites[site]
        rows, columns = edited.shape
        update = (
            LowRankFactors(
                torch.randn(rows, rank), torch.randn(rank, columns), scale=rank**-0.5, bound=1.0
            )
            if kind.startswith("low_rank")
            else DenseUpdate(torch.randn(rows, columns), bound=1.0)
        )
        return SiteEdit(
            edited.name, Shift(0.05) if kind.endswith("shift") else Mask(), update, step
        )

    return make


@pytest.fixture(scope="session")
def all_sites():
    """Every editable weight of a model, by name."""
    return lambda model: {site.name: site for site in editable_sites(model)}
