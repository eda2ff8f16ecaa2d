"""Where the parts of small models go."""


def spread(layers, others):
    """Where the parts of a model of four layers go."""
    ends = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    return dict.fromkeys(ends, others) | {f"model.layers.{i}": to for i, to in enumerate(layers)}


MAPS = {
    "some on disk": spread(["cpu", "disk", "disk", "cpu"], "cpu"),
    "layers on disk": spread(["disk"] * 4, "cpu"),
    "all on disk": {"": "disk"},
    "auto": "auto",
}
