"""The layers of the bundled language models that are edited where nobody names any; loads no
PyTorch, for tables of settings.

Of six layers: where the published editors work, MLP outputs from the second layer on for those that
write to the residual stream, and the whole MLPs of the last three layers for those that follow
gradients.
"""

from __future__ import annotations

FACTLM_SITES = ("model.layers.[12].mlp.down_proj", "model.layers.[345].mlp.*")
FACTLM_GPT2_SITES = ("transformer.h.[12].mlp.c_proj", "transformer.h.[345].mlp.*")
