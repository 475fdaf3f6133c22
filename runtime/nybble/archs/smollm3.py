"""SmolLM 3: Llama, but every fourth layer does not know positions.

Bakouch et al., "SmolLM3", 2025; layers without rotary embedding after Yang et al., "Rope to Nope
and Back Again", arXiv 2501.18795. The file does not say which they are.
"""

import math

from nybble.archs import Block, Decoder, Metadata, Mlp

PERIOD = 4


def describe(m: Metadata) -> Decoder:
    turning = m.attention("pairs")
    still = turning._replace(rope=turning.rope._replace(factor=math.inf))
    mlp = Mlp(m.count("feed_forward_length"))

    def block(i: int) -> Block:
        return Block(still if i % PERIOD == PERIOD - 1 else turning, mlp)

    return m.decoder(block)
