"""A small GPT with nanoGPT's names and arithmetic, written with torch alone."""


def tiny_nanogpt(torch, path, ids, bias=True, layers=2, heads=2, width=16, length=32, vocab=259):
    """Save a random checkpoint at `path`; returns its logits for `ids`."""
    functional = torch.nn.functional
    torch.manual_seed(0)
    state = {}

    def parameter(name, *shape):
        state[f"_orig_mod.{name}"] = torch.randn(*shape) * 0.3
        return state[f"_orig_mod.{name}"]

    def linear(x, name, out):
        weight = parameter(f"{name}.weight", out, x.shape[-1])
        return functional.linear(x, weight, parameter(f"{name}.bias", out) if bias else None)

    def norm(x, name):
        weight = parameter(f"{name}.weight", width)
        shift = parameter(f"{name}.bias", width) if bias else None
        return functional.layer_norm(x, (width,), weight, shift, 1e-5)

    def split(x):
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    tokens = torch.tensor(ids)
    table = parameter("transformer.wte.weight", vocab, width)
    x = table[tokens] + parameter("transformer.wpe.weight", length, width)[: tokens.shape[1]]
    for i in range(layers):
        name = f"transformer.h.{i}"
        parts = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn", 3 * width).split(width, 2)
        y = functional.scaled_dot_product_attention(*map(split, parts), is_causal=True)
        x = x + linear(y.transpose(1, 2).flatten(2), f"{name}.attn.c_proj", width)
        hidden = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc", 4 * width)
        x = x + linear(functional.gelu(hidden), f"{name}.mlp.c_proj", width)
    x = norm(x, "transformer.ln_f")
    state["_orig_mod.lm_head.weight"] = table
    arguments = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": length,
                 "bias": bias, "vocab_size": vocab, "dropout": 0.0}  # fmt: skip
    torch.save({"model": state, "model_args": arguments, "iter_num": 5, "best_val_loss": 1.5,
                "config": {"dataset": "x"}}, path)  # fmt: skip
    return x @ table.T
