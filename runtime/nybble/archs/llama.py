"""Llama and what is built like it: SmolLM2, Mistral 7B, TinyLlama.

Touvron et al., "Llama 2", 2023. The converter to GGUF reorders the rows of q and k so that the
pairs of the rotary embedding are neighbours; of Llama 3.1 and later it writes by how much each
pair turns more slowly, as a tensor.
"""

from nybble.archs import Block, Decoder, Metadata, Mlp


def describe(m: Metadata) -> Decoder:
    block = Block(m.attention("pairs"), Mlp(m.count("feed_forward_length")))
    return m.decoder(lambda _: block)
