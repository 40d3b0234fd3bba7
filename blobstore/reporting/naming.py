"""Which layer a tensor belongs to, by its name."""

from __future__ import annotations

import re

# The first number that stands alone between dots, slashes or underscores: model.layers.3.mlp, blk.3.attn_q, qkv_ein_3.
_NUMBER = re.compile(r"(?:^|(?<=[._/]))([0-9]{1,6})(?=$|[._/])")


def layer_and_role(name: str) -> tuple[str, str]:
    """Return a tensor's layer, and what it is there: the rest of its name, the same in each layer.

    Example:
        ``model.layers.3.mlp.up_proj.weight`` → ``model.layers.3``, ``mlp.up_proj.weight``; a name without a number has
        the layer "" and is its own role; of ``qkv_ein_3`` the layer is ``3``, the role ``qkv_ein``.
    """
    found = _NUMBER.search(name)
    if found is None:
        return "", name
    rest = name[found.end() + 1 :]
    if rest:
        return name[: found.end()], rest
    return found[1], name[: max(0, found.start() - 1)] or found[1]
