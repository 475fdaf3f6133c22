"""Granite 3, the dense models: Llama with four scales. IBM, "Granite 3.0 Language Models", 2024.

What a branch adds is multiplied by r. Every norm but for its epsilon gives the same whatever its
input is multiplied by, so the stream here is 1 / r times theirs: embeddings enter so much larger,
branches are added as they are, and epsilon is 1 / r^2 times theirs.
"""

from nybble.archs import Block, Decoder, Metadata, Mlp


def describe(m: Metadata) -> Decoder:
    def scale(key: str, default: float | None = 1.0) -> float:
        return m.number(key, default, least=1e-4, most=1e4)

    if m.count("attention.sliding_window", 0, least=0):
        raise m.refuse("layers that look through a window are not supported yet")
    r, attention = scale("residual_scale"), m.attention("pairs")
    attention = attention._replace(scale=scale("attention.scale", attention.score_scale))
    block = Block(attention, Mlp(m.count("feed_forward_length")))
    tree = m.decoder(lambda _: block, embed_scale=scale("embedding_scale") / r)
    return tree._replace(norm_eps=tree.norm_eps / r**2, head_scale=1 / scale("logit_scale", None))
