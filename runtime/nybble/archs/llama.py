"""Llama 1 and 2 and what is built like them: SmolLM2, Mistral 7B, TinyLlama.

Touvron et al., "Llama 2", 2023. The converter to GGUF reorders the rows of q and k so that the
pairs of the rotary embedding are neighbours.
"""

from nybble.archs import Attention, Block, Decoder, Metadata, Mlp, Rope


def describe(m: Metadata) -> Decoder:
    dim, heads = m.count("embedding_length"), m.count("attention.head_count")
    if dim % heads and not m.has("attention.key_length"):
        raise m.refuse(f"embedding_length {dim} does not divide among {heads} heads")
    head_dim = m.count("attention.key_length", dim // heads)
    attention = Attention(
        heads=heads,
        kv_heads=m.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope=Rope(
            theta=m.number("rope.freq_base", 10_000.0),
            dims=m.count("rope.dimension_count", head_dim),
            layout="pairs",
        ),
    )
    if m.count("attention.value_length", head_dim) != head_dim:
        raise m.refuse("keys and values of different lengths are not supported")
    if m.has_tensor("rope_freqs.weight") or m.text("rope.scaling.type", "none") != "none":
        raise m.refuse("scaled rotary embeddings (Llama 3.1 and later) are not supported yet")
    if m.count("expert_count", 0, least=0):
        raise m.refuse("mixtures of experts are not supported yet")
    block = Block(attention, Mlp(hidden=m.count("feed_forward_length")))
    return Decoder(
        dim=dim,
        vocab=m.vocab,
        context=m.count("context_length"),
        norm_eps=m.number("attention.layer_norm_rms_epsilon", most=1.0),
        blocks=(block,) * m.count("block_count", most=4096),
        tied=not m.has_tensor("output.weight"),
    )
