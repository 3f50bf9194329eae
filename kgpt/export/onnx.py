"""Export to ONNX: one graph for prefill and for decoding with a KV cache, built node by node.

Names and shapes are those of Optimum and transformers.js for a decoder with past:

    input_ids (B, T), attention_mask (B, S + T), position_ids (B, T) int64
    past_key_values.0.key, .value, ... (B, K, S, H)   ->   logits (B, T, V)
                                                           present.0.key, .value (B, K, S + T, H)

S = 0 is the whole forward pass, T = 1 a decode step. The graph needs opset 17. A classifier has no
cache: input_ids and attention_mask (B, T), padded at the end, give logits (B, labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.generation_config import generation_file
from kgpt.checkpoints.pretrained import load_config, load_tokenizer, write_config
from kgpt.checkpoints.weights import Weights
from kgpt.config import ModelConfig
from kgpt.errors import UsageError
from kgpt.model.attention import rotary_frequencies
from kgpt.model.layers import sinusoids
from kgpt.text.special_tokens import read_json_object

OPSET = 17
MAX_INLINE_BYTES = 1_500_000_000  # larger weights go to a file of their own


def export_onnx(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write model.onnx and the tokenizer to the empty folder `out`.

    Weights are stored as float32, or as float16 and cast to float32 in the graph.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError('The format onnx needs onnx; `pip install "kgpt[onnx]"`.') from None
    if dtype == "bfloat16":
        raise UsageError("Few ONNX runtimes support bfloat16; give --dtype float32 or float16.")
    config, head = load_config(folder), ClassifierHead.load(folder)
    weights = Weights(folder, config, head.num_labels if head else None)
    builder = ClassifierGraphBuilder if head else GraphBuilder
    graph = builder(config, weights, dtype or "float32")
    model = graph.build()
    large = graph.weight_bytes > MAX_INLINE_BYTES
    onnx.save(
        model, str(out / "model.onnx"), save_as_external_data=large, location="model.onnx_data"
    )
    onnx.checker.check_model(str(out / "model.onnx"))
    kept = read_json_object(generation_file(folder))
    values = head.as_config(config) if head else {}
    write_config(out, config, load_tokenizer(folder), None, dtype or "float32", kept, **values)


class GraphBuilder:
    """Builds the ONNX graph of one model: its nodes in execution order, and its weights."""

    def __init__(self, config: ModelConfig, weights: Weights, dtype: str):
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.weight_bytes = 0
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    # -- writing nodes ---------------------------------------------------------------------

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self._add_node(op_type, inputs, 1, **attributes)[0]

    def split(self, x: str, sizes: list[int]) -> list[str]:
        """Split the last axis of x into parts of the given sizes; returns their names."""
        return self._add_node("Split", [x, self.constant(sizes)], len(sizes), axis=-1)

    def _add_node(
        self, op_type: str, inputs: Sequence[str], num_outputs: int, **attributes: Any
    ) -> list[str]:
        from onnx import helper

        names = [f"{op_type}_{len(self.nodes)}_{i}" for i in range(num_outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names

    def constant(self, value: Any, dtype: str = "int64") -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, path: str) -> str:
        """The variable called `path`, in float32."""
        from onnx import TensorProto, numpy_helper

        value = self.weights.read(path, self.dtype)
        self.weight_bytes += value.nbytes
        self.initializers.append(numpy_helper.from_array(value, path))
        return path if self.dtype == "float32" else self.op("Cast", path, to=TensorProto.FLOAT)

    def rename(self, name: str, to: str) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [name], [to]))

    # -- the model ---------------------------------------------------------------------------

    def build(self) -> Any:
        """The whole model as an ONNX `ModelProto`."""
        from onnx import helper

        inputs, outputs = self.interface()
        self._forward()
        graph = helper.make_graph(self.nodes, "kgpt", inputs, outputs, self.initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="kgpt",
            ir_version=8,
        )

    def interface(self) -> tuple[list[Any], list[Any]]:
        """The graph's inputs and outputs."""
        config = self.config
        past = ["batch", config.num_kv_heads, "past", config.head_dim]
        present = ["batch", config.num_kv_heads, "total", config.head_dim]
        inputs = [
            tensor("input_ids", ["batch", "tokens"], "int64"),
            tensor("attention_mask", ["batch", "total"], "int64"),
            tensor("position_ids", ["batch", "tokens"], "int64"),
        ]
        outputs = [tensor("logits", ["batch", "tokens", config.known_vocab_size])]
        for i in range(config.num_layers):
            for part in ("key", "value"):
                inputs.append(tensor(f"past_key_values.{i}.{part}", past))
                outputs.append(tensor(f"present.{i}.{part}", present))
        return inputs, outputs

    def cached(self, part: str, x: str, layer: int) -> str:
        """Keys or values (B, K, S + T, H): those of the cache and `x`."""
        whole = self.op("Concat", f"past_key_values.{layer}.{part}", x, axis=2)
        self.rename(whole, f"present.{layer}.{part}")
        return whole

    def logits(self, x: str, table: str) -> str:
        """The logits of hidden states (B, T, D); `table` is the token embedding."""
        head = table if self.config.tie_embeddings else self.weight("head")
        return self.op("MatMul", x, self.op("Transpose", head, perm=[1, 0]))

    def _forward(self) -> None:
        config = self.config
        table = self.weight("token_embedding")
        x = self.op("Gather", table, "input_ids")  # (B, T, D)
        if config.position == "learned":
            positions = self.weight("position_embedding")
            x = self.op("Add", x, self.op("Gather", positions, "position_ids"))
        elif config.position == "sinusoidal":
            values = sinusoids(config.max_length, config.hidden_dim)
            positions = self.constant(values, "float32")
            x = self.op("Add", x, self.op("Gather", positions, "position_ids"))
        mask_bias, angles = self._mask_bias(), self._angles()
        for i in range(config.num_layers):
            normed = self._norm(x, f"block_{i}/attention_norm")
            x = self.op("Add", x, self._attention(normed, i, mask_bias, angles))
            normed = self._norm(x, f"block_{i}/mlp_norm")
            x = self.op("Add", x, self._mlp(normed, f"block_{i}/mlp"))
        x = self._norm(x, "final_norm")
        self.rename(self.logits(x, table), "logits")

    def _mask_bias(self) -> str:
        """(B, 1, 1, T, S + T): 0 where a query attends to a key, -1e9 elsewhere."""
        from onnx import TensorProto

        zero, one, first = self.constant(0), self.constant(1), self.constant([1])
        tokens = self.op("Squeeze", self.op("Shape", "input_ids", start=1, end=2))
        total = self.op("Squeeze", self.op("Shape", "attention_mask", start=1, end=2))
        past = self.op("Sub", total, tokens)
        queries = self.op("Unsqueeze", self.op("Range", past, total, one), first)  # (T, 1)
        keys = self.op("Range", zero, total, one)  # (S + T,)
        mask = self.op("LessOrEqual", keys, queries)
        if self.config.sliding_window is not None:
            oldest = self.op("Sub", queries, self.constant(self.config.sliding_window))
            mask = self.op("And", mask, self.op("Greater", keys, oldest))
        real = self.op("Cast", "attention_mask", to=TensorProto.BOOL)
        real = self.op("Unsqueeze", real, self.constant([1, 2, 3]))  # (B, 1, 1, 1, S + T)
        return self.op(
            "Where",
            self.op("And", real, mask),
            self.constant(0.0, "float32"),
            self.constant(-1e9, "float32"),
        )

    def _angles(self) -> tuple[str, str] | None:
        """Cosines and sines of the rotary angles, (B, 1, T, H / 2)."""
        from onnx import TensorProto

        config = self.config
        if config.position != "rotary":
            return None
        rotary = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        positions = self.op("Cast", "position_ids", to=TensorProto.FLOAT)
        positions = self.op("Unsqueeze", positions, self.constant([1, 3]))
        angles = self.op("Mul", positions, self.constant(rotary.frequencies, "float32"))
        magnitude = self.constant(rotary.magnitude, "float32")
        cos, sin = (self.op("Mul", self.op(name, angles), magnitude) for name in ("Cos", "Sin"))
        return cos, sin

    def _norm(self, x: str, path: str) -> str:
        epsilon, scale = self.config.norm_epsilon, self.weight(f"{path}/scale")
        if self.config.norm == "layer" and not path.endswith(("query_norm", "key_norm")):
            bias = [self.weight(f"{path}/bias")] if self.config.bias else []
            return self.op("LayerNormalization", x, scale, *bias, axis=-1, epsilon=epsilon)
        square = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", square, self.constant(epsilon, "float32")))
        return self.op("Mul", self.op("Div", x, root), scale)

    def _dense(self, x: str, path: str, bias: bool) -> str:
        y = self.op("MatMul", x, self.weight(path))
        return self.op("Add", y, self.weight(f"{path}_bias")) if bias else y

    def _attention(self, x: str, layer: int, mask_bias: str, angles: tuple[str, str] | None) -> str:
        config, path = self.config, f"block_{layer}/attention"
        n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
        qkv = self._dense(x, f"{path}/qkv", config.qkv_bias)
        query, key, value = self.split(qkv, [n * h, k * h, k * h])
        query, key, value = (
            self.op("Reshape", part, self.constant([0, 0, heads, h]))
            for part, heads in ((query, n), (key, k), (value, k))
        )
        if config.qk_norm:
            query = self._norm(query, f"{path}/query_norm")
            key = self._norm(key, f"{path}/key_norm")
        query, key, value = (
            self.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, key, value)
        )
        if angles is not None:
            query, key = self._rotated(query, *angles), self._rotated(key, *angles)
        key, value = self.cached("key", key, layer), self.cached("value", value, layer)
        query = self.op("Mul", query, self.constant(h**-0.5, "float32"))
        query = self.op("Reshape", query, self.constant([0, k, n // k, -1, h]))  # (B, K, G, T, H)
        key, value = (self.op("Unsqueeze", part, self.constant([2])) for part in (key, value))
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        weights = self.op("Softmax", self.op("Add", scores, mask_bias), axis=-1)
        heads = self.op("MatMul", weights, value)
        heads = self.op("Reshape", heads, self.constant([0, n, -1, h]))
        heads = self.op("Transpose", heads, perm=[0, 2, 1, 3])
        flat = self.op("Reshape", heads, self.constant([0, 0, n * h]))
        return self._dense(flat, f"{path}/output", config.bias)

    def _rotated(self, x: str, cos: str, sin: str) -> str:
        first, second = self.split(x, [self.config.head_dim // 2] * 2)
        left = self.op("Sub", self.op("Mul", first, cos), self.op("Mul", second, sin))
        right = self.op("Add", self.op("Mul", second, cos), self.op("Mul", first, sin))
        return self.op("Concat", left, right, axis=-1)

    def _mlp(self, x: str, path: str) -> str:
        config = self.config
        hidden = self._dense(x, f"{path}/up", config.mlp_bias)
        if config.activation == "swiglu":
            gate, value = self.split(hidden, [config.intermediate_dim] * 2)
            active = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), value)
        else:
            active = self._gelu(hidden)
        return self._dense(active, f"{path}/down", config.mlp_bias)

    def _gelu(self, x: str) -> str:
        """GELU with erf, or the tanh approximation of GPT-2."""

        def number(value: float) -> str:
            return self.constant(value, "float32")

        if self.config.activation == "gelu":
            cdf = self.op("Erf", self.op("Mul", x, number(0.5**0.5)))
        else:
            cube = self.op("Mul", self.op("Mul", x, x), x)
            inner = self.op("Add", x, self.op("Mul", cube, number(0.044715)))
            cdf = self.op("Tanh", self.op("Mul", inner, number((2 / np.pi) ** 0.5)))
        cdf = self.op("Mul", self.op("Add", cdf, number(1.0)), number(0.5))
        return self.op("Mul", x, cdf)


class ClassifierGraphBuilder(GraphBuilder):
    """Builds the graph of a classifier, whose head is applied to the last token of each text."""

    def interface(self) -> tuple[list[Any], list[Any]]:
        tokens = self.op("Squeeze", self.op("Shape", "input_ids", start=1, end=2))
        positions = self.op("Range", self.constant(0), tokens, self.constant(1))
        self.rename(self.op("Unsqueeze", positions, self.constant([0])), "position_ids")  # (1, T)
        names = ("input_ids", "attention_mask")
        inputs = [tensor(name, ["batch", "tokens"], "int64") for name in names]
        return inputs, [tensor("logits", ["batch", self.weights.shapes["score"][0]])]

    def cached(self, part: str, x: str, layer: int) -> str:
        return x

    def logits(self, x: str, table: str) -> str:
        length = self.op("ReduceSum", "attention_mask", self.constant([1]), keepdims=1)  # (B, 1)
        last = self.op("GatherND", x, self.op("Sub", length, self.constant(1)), batch_dims=1)
        return self.op("MatMul", last, self.op("Transpose", self.weight("score"), perm=[1, 0]))


def tensor(name: str, shape: list[Any], dtype: str = "float32") -> Any:
    """An input or output of the graph."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
