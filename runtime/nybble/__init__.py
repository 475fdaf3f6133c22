"""Small language models, quantized to about four bits, on small computers."""
