"""Our names for the U-Net's parameters and layouts, and the peer's (torch_peer)."""

TOP = {
    "time1": "time_embedding.linear_1",
    "time2": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "short": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def peer_name(ours):
    """The peer's dotted name for one of our parameters."""
    part, kind = ours.rsplit(".", 1)
    kind = {"w": "weight", "b": "bias"}[kind]
    keys = part.split(".")
    if len(keys) == 1:
        return f"{TOP[part]}.{kind}"
    if keys[0] == "mid":
        block, index, rest = "mid_block", {"first": 0, "second": 1}[keys[1]], keys[2:]
    elif keys[2] == "resize":
        return f"{keys[0]}_blocks.{keys[1]}.{keys[0]}samplers.0.conv.{kind}"
    else:
        block, index, rest = f"{keys[0]}_blocks.{keys[1]}", keys[3], keys[4:]
    if rest[0] == "attention":
        return f"{block}.attentions.{index}.{ATTENTION[rest[1]]}.{kind}"
    return f"{block}.resnets.{index}.{BLOCK[rest[0]]}.{kind}"


def from_peer(array):
    """The peer's (O, C, k, k) or (O, I) array in our order, (k, k, C, O) or (I, O)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_peer(array):
    """Ours in the peer's order."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
