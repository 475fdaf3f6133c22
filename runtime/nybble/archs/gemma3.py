"""Gemma 3, its text: Gemma Team, arXiv 2503.19786.

    * five layers of six see a sliding window, the sixth sees everything
    * the two kinds rotate with bases of their own
    * heads of q and k are normed, and so is what a branch adds
    * embeddings are scaled by sqrt(dim); the MLP's gate is a GELU; the head is the embedding

The converter to GGUF has added the 1 of Gemma's (1 + w) to the weights of all norms.
"""

import math

from nybble.archs import Block, Decoder, Metadata, Mlp, Rope

PERIOD = 6
NEAR_THETA = 10_000.0  # as a rule not in the file
# Where q is divided by sqrt(dim / heads) and not by sqrt(head_dim): the file does not say, and
# only the 27B model has so many layers.
LAYERS_27B = 62


def describe(m: Metadata) -> Decoder:
    if m.number("final_logit_softcapping", 0.0, least=0):
        raise m.refuse("logits that are capped are not supported yet")
    dim = m.count("embedding_length")
    far = m.attention("halves")._replace(qk_norm=True, scale=_scale(m))
    near_rope = Rope(m.number("rope.freq_base_swa", NEAR_THETA), far.rope.dims, far.rope.layout)
    near = far._replace(rope=near_rope, window=m.count("attention.sliding_window"))
    mlp = Mlp(m.count("feed_forward_length"), act="gelu")
    period = m.count("attention.sliding_window_pattern", PERIOD)

    def block(i: int) -> Block:
        return Block(far if i % period == period - 1 else near, mlp, post_norms=True)

    return m.decoder(block, embed_scale=math.sqrt(dim))


def _scale(m: Metadata) -> float | None:
    """Of the scores; None: as usual."""
    if m.count("block_count") != LAYERS_27B:
        return None
    return 1 / math.sqrt(m.count("embedding_length") / m.count("attention.head_count"))
