#!/usr/bin/env python3
"""Writes a GGUF file for llama.cpp with random weights: a language model that knows nothing.

    pip install gguf==0.19.0 numpy
    python3 examples/local-random-model.py random.gguf

Its answers are English words in no order. It proves that a server, its API, streaming and everything around it work on
a site without the internet; for an answer that makes sense put a real model in its place.
"""

import sys

import gguf
import numpy

WORDS = """I you we it the a is are can will here there now today tomorrow door office house morning picture see hear
speak help please thank yes no good well open call again one two three time person people""".split()
EMBEDDING, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 8192


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "random.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)

    # Bytes spell whatever is asked; words, and a full stop here and there, are what is answered.
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    answers_from = len(tokens)
    tokens += [(f"\u2581{word}", kinds.NORMAL) for word in WORDS]
    tokens += [(".", kinds.NORMAL)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(n) for n in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    random = numpy.random.default_rng(1)
    normal = lambda *shape: random.normal(0.0, 0.1, shape).astype(numpy.float32)
    output = normal(len(tokens), EMBEDDING) * 30
    output[:answers_from] = 0
    writer.add_tensor("token_embd.weight", normal(len(tokens), EMBEDDING))
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", numpy.ones(EMBEDDING, numpy.float32))
    for layer in range(LAYERS):
        name = lambda part: f"blk.{layer}.{part}.weight"
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(name(part), numpy.ones(EMBEDDING, numpy.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(name(part), normal(EMBEDDING, EMBEDDING))
        for part in ("ffn_gate", "ffn_up"):
            writer.add_tensor(name(part), normal(FEED_FORWARD, EMBEDDING))
        writer.add_tensor(name("ffn_down"), normal(EMBEDDING, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
