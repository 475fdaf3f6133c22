"""Qwen 2 and 2.5: Llama with biases of q, k and v. Qwen Team, arXiv 2407.10671."""

from nybble.archs import Block, Decoder, Metadata, Mlp


def describe(m: Metadata) -> Decoder:
    attention = m.attention("halves")._replace(qkv_bias=True)
    block = Block(attention, Mlp(m.count("feed_forward_length")))
    return m.decoder(lambda _: block)
