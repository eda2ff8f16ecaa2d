"""Which tokens of a batch a module inside a model is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from editgym.weights.language.tokens import TokenBatch
from editgym.weights.sites import UnknownSiteError


def by_text(x: Tensor, texts: tuple[int, ...]) -> Tensor:
    """What a module is given or gives out at every token, (n, length, width), also where the model
    flattens a batch's tokens before it, as OPT's MLP does, or has another dimension between.

    Args:
        x: (..., width), of n · length tokens, one text after the other.
        texts: (n, length), the shape of the batch's token ids.

    Raises:
        UnknownSiteError: There are more or fewer tokens.
    """
    if x.shape[:-1] == texts:
        return x
    if x.shape[:-1].numel() != texts[0] * texts[1]:
        raise UnknownSiteError(
            f"a site is given {x.shape[:-1].numel()} tokens of {texts[0]} texts of {texts[1]} each,"
            " as an expert of a mixture is, and such sites are not supported; open others"
        )
    return x.reshape(*texts, x.shape[-1])


def at_tokens(x: Tensor, texts: tuple[int, ...], rows: Tensor, positions: Tensor) -> Tensor:
    """(m, width) of what a module is given or gives out, at the tokens (rows, positions), on the
    device of these.

    Args:
        x: (..., width), of all tokens, on the module's device.
        texts: (n, length), the shape of the batch's token ids.
        rows: (m,), the text of every token.
        positions: (m,), where it stands in the text.
    """
    at = by_text(x, texts)[rows.to(x.device), positions.to(x.device)]
    return at.to(rows.device)


def check_inputs(
    names: Iterable[str],
    inputs: Mapping[str, Tensor],
    alone: Mapping[str, Tensor],
    batch: TokenBatch,
    head: str | None,
) -> None:
    """Refuse sites that are not given all tokens of every text in their order: nobody could tell
    whose those are that they are given.

    Args:
        names: The sites' names.
        inputs: By site name, what its module was given, if it ran.
        alone: The same where the last text went through the model alone.
        batch: The texts.
        head: Name of the output embedding, which is asked at answer tokens only.

    Raises:
        UnknownSiteError: There is such a site.
    """
    for name in names:
        if name not in inputs:
            raise UnknownSiteError(
                f"site {name}: no token of the example reaches it, as may be with an expert of a "
                "mixture, and such sites are not supported; open others"
            )
        if name != head and not _in_order(inputs[name], alone.get(name), batch):
            raise UnknownSiteError(
                f"site {name}: it is given tokens {tuple(inputs[name].shape[:-1])} of a batch"
                f" {tuple(batch.ids.shape)}, and not all of them, one text after the other, as"
                " where an expert of a mixture is given those that it is chosen for, and such"
                " sites are not supported; open others"
            )


def _in_order(x: Tensor, alone: Tensor | None, batch: TokenBatch) -> bool:
    """Whether a module was given every token of every text in order, by what it is given of the
    last text where that is alone.
    """
    length = batch.lengths[-1]
    if alone is None or x.shape[:-1].numel() != batch.ids.numel():
        return False
    if alone.shape[:-1].numel() != length:
        return False
    own = by_text(alone, (1, length))[0]
    seen = by_text(x, batch.ids.shape)[-1, :length]
    return not bool((seen - own).norm() > 0.1 * own.norm())  # half precision rounds


def at_answers(x: Tensor, batch: TokenBatch) -> Tensor:
    """(m, width) of what a module was given or gave out at all of a batch's tokens, without the
    tokens that weigh nothing; the head's are (m, width) already, for it is asked at answer tokens
    only, which are fewer than all.
    """
    asked = x.ndim == 2 and len(x) == len(batch.rows)
    at = (
        x.to(batch.ids.device)
        if asked
        else at_tokens(x, batch.ids.shape, batch.rows, batch.positions)
    )
    return at if batch.weights is None else at[batch.weights > 0]


def counted_rows(batch: TokenBatch) -> Tensor:
    """The text of every row that `at_answers` gives, (m,)."""
    return batch.rows if batch.weights is None else batch.rows[batch.weights > 0]
