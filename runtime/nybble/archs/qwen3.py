"""Qwen 3: Llama with norms of each head of q and k. Qwen Team, arXiv 2505.09388."""

from nybble.archs import Block, Decoder, Metadata, Mlp


def describe(m: Metadata) -> Decoder:
    attention = m.attention("halves")._replace(qk_norm=True)
    block = Block(attention, Mlp(m.count("feed_forward_length")))
    return m.decoder(lambda _: block)
