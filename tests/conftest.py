"""One thread, no network, a temporary working directory, and a cache that no other run shares."""

import os
import socket
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1",
                  HF_DATASETS_OFFLINE="1", SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy")
# The tests change directory, so a relative EDITGYM_DATA would point elsewhere.
os.environ["EDITGYM_DATA"] = str(Path(os.environ.get("EDITGYM_DATA") or "~/.cache/editgym/data").expanduser().absolute())
# `python -m pytest` puts the checkout first on the path: what is tested must be what is installed.
_CHECKOUT = Path(__file__).parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _CHECKOUT]

import pytest
import torch

import editgym  # noqa: F401 - registers the environments

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """`data("images/MNIST/raw")` skips where `EDITGYM_DATA` lacks one of the paths, `gpu` where there is no CUDA."""
    data = Path(os.environ["EDITGYM_DATA"])
    for item in items:
        wanted = [path for marker in item.iter_markers("data") for path in marker.args or ("",)]
        missing = [path for path in wanted if not (data / path).exists()]
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"EDITGYM_DATA has no {', '.join(missing)}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory):
    """Run from a temporary directory, with a cache of this session's own."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    os.environ["EDITGYM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """A connection to anywhere but this machine is an error at once, not a hub that answers today."""
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


@pytest.fixture
def empty_data_folder(tmp_path, monkeypatch):
    """`EDITGYM_DATA` without any data set."""
    folder = tmp_path / "no data"
    monkeypatch.setenv("EDITGYM_DATA", str(folder))
    return folder
