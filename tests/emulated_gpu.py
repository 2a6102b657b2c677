"""A CUDA device that computes on the CPU, so that GPU code runs where there is no GPU.

Where torch sees a real one, ``card`` gives that and nothing is emulated. Else tensors "on the card"
say that they are on cuda:0 and hold their values on the CPU. An operation on tensors of both
devices fails as on a card, and so do ``.numpy()``, numbers drawn there by a CPU generator,
and in deterministic mode operations that torch documents to have no deterministic CUDA code.
Speed, memory and rounding of a real card are not shown.
"""

import contextlib
import os
import types

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from speedlimits import gradient

aten = torch.ops.aten
CARD = torch.device("cuda", 0)
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
# Those that torch.use_deterministic_algorithms documents to raise on CUDA, floating-point tensors
NOT_DETERMINISTIC = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "upsample_linear1d_backward", "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
    "nll_loss2d_forward", "_ctc_loss_backward", "put_", "histc", "bincount", "kthvalue", "median",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum", "scatter_reduce",
}  # fmt: skip


class OnCard(torch.Tensor):
    """A tensor on the card. For torch's own code it is on the device without values, "meta"."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device="meta",
        )  # fmt: skip
        tensor.held = held
        return tensor

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def data_ptr(self):
        return self.held.data_ptr()

    def __deepcopy__(self, memo):
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        torch.Tensor.data.__set__(self, other)
        self.held = other.held

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def compute(operation, args, kwargs):
    """Carry out an operation on the CPU; its result is on the card if an argument is."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    on_card = [x for x in tensors if isinstance(x, OnCard)]
    device = kwargs.get("device")
    to_card = bool(on_card) if device is None else torch.device(device).type != "cpu"
    if operation in COPIES:
        to_card = to_card if device is not None else isinstance(args[0], OnCard)
    elif on_card and not (operation in INDEXED and isinstance(args[0], OnCard)):
        beside = [tuple(x.shape) for x in tensors if not isinstance(x, OnCard) and x.dim() > 0]
        if beside:
            raise RuntimeError(f"{operation}: tensors of the shapes {beside} are on the CPU")
    name = operation._schema.name.removeprefix("aten::")
    if to_card and name in NOT_DETERMINISTIC and torch.get_deterministic_debug_mode() == 2:
        raise RuntimeError(f"{name} does not have a deterministic implementation")
    if to_card and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operation}: the generator is on the CPU")
    if device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if operation is aten._efficientzerotensor.default:
        operation = aten.zeros.default  # held in another tensor it is not known as one
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnCard) else x, (args, kwargs))
    found = operation(*args, **kwargs)
    known = {id(x.held): x for x in on_card}  # what is changed in place stays the same tensor

    def placed(x):
        if not isinstance(x, torch.Tensor) or not to_card:
            return x
        return known.get(id(x)) if id(x) in known else OnCard(x)

    return tree_map(placed, found)


class Operations(TorchDispatchMode):
    """Tensors made without arguments on the card, as zeros, must come here too."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


class Devices(TorchFunctionMode):
    """Asks torch, which may be built without CUDA, for "meta" instead of "cuda"."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def asked(x):
            cuda = isinstance(x, str | torch.device) and str(x).startswith("cuda")
            return torch.device("meta") if cuda else x

        if function is torch.Tensor.tolist and isinstance(args[0], OnCard):
            args = (args[0].held,)  # refused for every subclass
        if function is not torch.device:
            args, kwargs = tree_map(asked, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


HIDDEN = "SPEEDLIMITS_HIDDEN_CUDA_DEVICES"  # from processes that tests start, not from xdist's


def hide_real_card():
    """Let no test and no process of its own compute on a real card, but within ``card``.

    Returns:
        Whether there is one.
    """
    if HIDDEN in os.environ:  # a worker of pytest-xdist, whose parent has been here
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[HIDDEN]
    there = torch.cuda.is_available()
    if there:
        every = ",".join(map(str, range(torch.cuda.device_count())))
        os.environ[HIDDEN] = os.environ.get("CUDA_VISIBLE_DEVICES", every)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.cuda.init()  # this process knows it from here on; those that it starts do not
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return there


REAL = hide_real_card()


@contextlib.contextmanager
def card():
    """Within this, a CUDA device is there: the real one if there is one."""
    if REAL:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            yield
        return
    with pytest.MonkeyPatch.context() as patch, Devices(), Operations():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_name", lambda _: "emulated")
        memory = types.SimpleNamespace(total_memory=10**9)
        patch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
        patch.setattr(gradient, "GRAPH_SAMPLES", 0)  # nothing is captured
        patch.setattr(torch.cuda, "max_memory_allocated", lambda: 1_000_000)
        yield
