"""A traced FX graph as a function with fewer and quicker calls.

A decode step on CPU is a thousand small operations, and calling one costs as much as computing it:

- what depends on no argument is computed once;
- a view is made once, and not where it changes nothing;
- operations are called by PyTorch's own bindings, which take a microsecond less than its registry;
- constants are attributes of a plain object and not of a module.

No floating-point operation is changed.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule

aten = torch.ops.aten
Function = Callable[..., Any]
Node = Any  # a `torch.fx.Node`, whose arguments are annotated as anything a schema allows

VIEWS = {
    aten.view.default, aten.unsqueeze.default, aten.permute.default, aten.transpose.int,
    aten.expand.default, aten.slice.Tensor, aten.select.int, aten.view.dtype,
}  # fmt: skip
RESHAPES = {aten.view.default, aten.expand.default}  # which may give the shape that there was
CONSTANTS = {
    aten.arange.default, aten.arange.start_step, aten.scalar_tensor.default,
    aten.lift_fresh_copy.default,
}  # fmt: skip
BINDINGS: dict[Any, Function] = {
    aten.view.default: torch.Tensor.view,
    aten.view.dtype: torch.Tensor.view,
    aten.expand.default: torch.Tensor.expand,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.permute.default: torch.permute,
    aten.transpose.int: torch.transpose,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.addcmul.default: torch.addcmul,
    aten.abs.default: torch.abs,
    aten.amax.default: torch.amax,
    aten.where.self: torch.where,
    aten.bmm.default: torch.bmm,
    aten._softmax.default: torch._softmax,
    aten.constant_pad_nd.default: torch.constant_pad_nd,
    aten.index_select.default: torch.index_select,
    aten.mm.default: torch.mm,
    aten.native_layer_norm.default: torch.native_layer_norm,
    aten.embedding.default: torch.embedding,
    aten.gelu.default: torch.nn.functional.gelu,
}


def quick(traced: GraphModule) -> Function:
    """`traced`, a trace by `make_fx` whose shapes are fixed, computed with less overhead."""
    graph, constants = traced.graph, {}
    for node in graph.nodes:
        if node.op == "get_attr":
            constants[node.target] = _attribute(traced, node.target)
    _fold_constants(graph, constants)
    _merge_views(graph)
    for node in graph.nodes:
        if node.op == "call_function":
            _call_by_binding(node)
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(code.src, scope)  # as GraphModule does
    return types.MethodType(scope["forward"], types.SimpleNamespace(**constants))


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _call_by_binding(node: Node) -> None:
    """Call an operation by PyTorch's own binding, where it is one of `BINDINGS` and a few more."""
    if node.target == aten._to_copy.default and set(node.kwargs) == {"dtype"}:
        node.target, node.args = torch.Tensor.to, (*node.args, node.kwargs["dtype"], False, True)
        node.kwargs = {}
    elif node.target == aten.slice.Tensor and len(node.args) == 4 and _shape(node.args[0]):
        source, dim, start, end = node.args
        size = _shape(source)[dim]
        if 0 <= start <= min(end, size):
            node.target, node.args = torch.narrow, (source, dim, start, min(end, size) - start)
    else:
        node.target = BINDINGS.get(node.target, node.target)


def _fold_constants(graph: Graph, constants: dict[str, Any]) -> None:
    """Compute what depends on no weight and no argument, once, unless it is written to."""
    written = {_root(node.args[0]) for node in graph.nodes if _writes(node)}
    values: dict[Node, Any] = {}
    known: dict[Any, str] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.target.startswith("_tensor_constant"):
            values[node] = constants[node.target]
        foldable = node.op == "call_function" and node.target in CONSTANTS | VIEWS
        if not foldable or _root(node) in written:
            continue
        if any(source not in values for source in node.all_input_nodes):
            continue
        key = (node.target, repr((node.args, node.kwargs)))
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        name = known.setdefault(key, f"folded_{len(known)}")
        if name not in constants:
            constants[name] = node.target(*args, **kwargs)
        with graph.inserting_before(node):
            new = graph.create_node("get_attr", name, name=name)
        values[new] = constants[name]
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _merge_views(graph: Graph) -> None:
    """Keep the first of equal views, and no view with the shape of what it is a view of."""
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in VIEWS:
            continue
        source = node.args[0]
        if node.target == aten.view.default == source.target:
            node.update_arg(0, source.args[0])
        first = seen.setdefault((node.target, repr((node.args, node.kwargs))), node)
        source = node.args[0]
        if node.target in RESHAPES and _shape(source) == _shape(node) is not None:
            first = source
        if first is not node:
            node.replace_all_uses_with(first)
    for node in reversed(graph.nodes):
        if not node.users and node.target in VIEWS | {operator.getitem}:
            graph.erase_node(node)


def _shape(node: Node) -> Any:
    """The shape of a node's value, None where the trace has not noted it."""
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    return getattr(value, "shape", None)


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _root(node: Any) -> Any:
    """What a view is a view of, at last; a node that is no view is its own."""
    while node.op == "call_function" and node.target in VIEWS:
        node = node.args[0]
    return node
