"""Read a GGUF file that gptq-repack wrote with the gguf Python package.

usage: read_gguf.py FILE DENSE

Every matrix is dequantized by the package and compared bit for bit with DENSE,
the same model decoded to F32 by gptq-repack; rows of q and k are first put back
where transformers has them.  The pairs must describe the model of DENSE.
"""
import json
import os
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import load_file

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def name_of(name):
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight",
                "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight"}[name]
    _, layer, part, suffix = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{suffix}"


def main():
    reader = GGUFReader(sys.argv[1])
    want = load_file(os.path.join(sys.argv[2], "model.safetensors"))
    c = json.load(open(os.path.join(sys.argv[2], "config.json")))
    value = {k: f.contents() for k, f in reader.fields.items()}
    heads = c["num_attention_heads"]
    size = c["hidden_size"] // heads
    assert value["general.architecture"] == "llama"
    assert value["general.quantization_version"] == 2
    for key, of in [("block_count", "num_hidden_layers"),
                    ("context_length", "max_position_embeddings"),
                    ("embedding_length", "hidden_size"),
                    ("feed_forward_length", "intermediate_size"),
                    ("attention.head_count", "num_attention_heads"),
                    ("attention.head_count_kv", "num_key_value_heads"),
                    ("rope.freq_base", "rope_theta"),
                    ("vocab_size", "vocab_size")]:
        assert value["llama." + key] == c[of], key
    eps = value["llama.attention.layer_norm_rms_epsilon"]
    assert np.float32(eps) == np.float32(c["rms_norm_eps"])
    tokens = value["tokenizer.ggml.tokens"]
    assert len(tokens) == c["vocab_size"] == len(set(tokens))
    assert len(value["tokenizer.ggml.scores"]) == len(tokens)
    assert len(value["tokenizer.ggml.token_type"]) == len(tokens)
    assert value["tokenizer.ggml.bos_token_id"] == c["bos_token_id"]
    seen = set()
    for t in reader.tensors:
        name = name_of(t.name)
        w = dequantize(t.data, t.tensor_type).astype(np.float32)
        if "q_proj" in name or "k_proj" in name:
            n = w.shape[0] // size
            w = w.reshape(n, size // 2, 2, -1).swapaxes(1, 2)
            w = w.reshape(n * size, -1)
        assert np.array_equal(w, want[name].astype(np.float32)), name
        assert t.tensor_type.name == "F32" or w.ndim == 2, name
        seen.add(name)
    assert seen == set(want), seen ^ set(want)
    print(*sorted({t.tensor_type.name for t in reader.tensors}))


main()
