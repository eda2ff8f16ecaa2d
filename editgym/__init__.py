"""editgym: Gymnasium environments for editing neural networks.

`import editgym` registers the environments; `gym.make("editgym:MaskWorld-v1")` needs no import.
"""

from editgym.version import __version__
from envs_registry import register_all

register_all()

__all__ = ["__version__"]
