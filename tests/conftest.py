"""One thread, no network, a temporary working directory, and a cache that no other run shares."""

import os
import socket
import sys
from pathlib import Path

# ruff: noqa: E402 - the environment is set before torch and the hubs' libraries read it
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    SDL_VIDEODRIVER="dummy",
    SDL_AUDIODRIVER="dummy",
)
# What was fetched before: the tests' own cache is empty.
_CACHE = Path(os.environ.get("EDITGYM_CACHE") or "~/.cache/editgym").expanduser().absolute()
# The tests change directory, so a relative EDITGYM_DATA would point elsewhere.
_DATA = Path(os.environ.get("EDITGYM_DATA") or "~/.cache/editgym/data").expanduser().absolute()
os.environ["EDITGYM_DATA"] = str(_DATA)
# `python -m pytest` puts the checkout first on the path: what is tested must be what is installed.
_CHECKOUT = Path(__file__).parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _CHECKOUT]

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

# Imported before any test is: a folder of tests has a package's name, and may come first on the
# path.
import agents  # noqa: F401
import benchmarks  # noqa: F401
import editgym  # noqa: F401 - registers the environments
from editgym.models.classifiers import SmallConvNet
from editgym.tasks.knowledge import own_samples

torch.set_num_threads(1)
own_samples.SAMPLED_TOKENS = 6_000  # every tiny model of a test has samples of its own


def pytest_collection_modifyitems(items):
    """`data("images/x.npz")` skips where `EDITGYM_DATA` lacks one of the paths, `gpu` where there
    is no CUDA."""
    for item in items:
        wanted = [path for marker in item.iter_markers("data") for path in marker.args or ("",)]
        missing = [path for path in wanted if not (_DATA / path).exists()]
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"EDITGYM_DATA has no {', '.join(missing)}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory):
    """Run from a temporary directory, with a cache that this run's processes share."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    of_run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in the run's
        of_run = of_run.parent
    os.environ["EDITGYM_CACHE"] = str(of_run / "cache")
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """A connection to anywhere but this machine is an error at once, not a hub that answers
    today."""
    connect = socket.socket.connect

    def local_only(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"tests must not use the network, and this one tried {host}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(autouse=True)
def same_random_numbers():
    """A test draws the same numbers alone as among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_images():
    """Arrays for an npz: 8×8 images of 4 classes, each with a bright quadrant of its own."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 120), ("test", 40)):
        y = np.arange(number) % 4
        x = random.integers(0, 80, (number, 8, 8), dtype=np.uint8)
        for image, label in zip(x, y, strict=True):
            image[label // 2 * 4 : label // 2 * 4 + 4, label % 2 * 4 : label % 2 * 4 + 4] += 150
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    return arrays


@pytest.fixture
def custom_arguments(tmp_path, small_images):
    """Arguments of `unlearning/custom` for a small network with random weights and
    `small_images`."""
    np.savez(tmp_path / "images.npz", **small_images)
    torch.manual_seed(0)
    save_file(SmallConvNet(8, 4).state_dict(), tmp_path / "network.safetensors")
    return {
        "model": "editgym.models.classifiers:SmallConvNet",
        "model_kwargs": {"image_size": 8, "n_classes": 4},
        "weights": str(tmp_path / "network.safetensors"),
        "data": str(tmp_path / "images.npz"),
    }


@pytest.fixture
def empty_data_folder(tmp_path, monkeypatch):
    """`EDITGYM_DATA` without any data set."""
    folder = tmp_path / "no data"
    monkeypatch.setenv("EDITGYM_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def factworld_tokenizer():
    """The tokenizer of factlm."""
    from editgym.data.factworld import FactWorld
    from editgym.models.factlm import train_tokenizer

    return train_tokenizer(FactWorld())


@pytest.fixture(scope="session")
def smollm2():
    """The folder of SmolLM2-135M-Instruct, if it was fetched before; else the test is skipped."""
    folder = _CACHE / "models" / "smollm2-135m"
    if not folder.is_dir():
        pytest.skip("not there: python -m editgym.models.fetch smollm2-135m")
    return str(folder)


@pytest.fixture(scope="session")
def minilm():
    """The folder of all-MiniLM-L6-v2, if it was fetched before; else the test is skipped."""
    folder = _CACHE / "models" / "minilm-l6"
    if not folder.is_dir():
        pytest.skip("not there: python -m editgym.models.fetch minilm-l6")
    return str(folder)


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory, factworld_tokenizer):
    """The folder of a Llama of four layers with random weights and factlm's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("tiny_lm"), factworld_tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                initializer_range=0.2,
                tie_word_embeddings=False,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """The folder of a small random BERT without a head, and a tokenizer of the templates' words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from editgym.tasks.debiasing.data import templates_data

    folder = tmp_path_factory.mktemp("encoder")
    words = templates_data()[1].vocabulary
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", *words))}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.normalizer = normalizers.Lowercase()
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=48,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                initializer_range=0.2,
            )
        )
    with torch.no_grad():  # the first token sees all words alike
        model.encoder.layer[0].attention.self.query.weight.zero_()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return str(folder)
