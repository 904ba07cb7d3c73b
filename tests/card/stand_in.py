"""A graphics card without a card: a second device that computes, and refuses what cards refuse.

It is PyTorch's place for devices of others ("PrivateUse1"), written in Python: a tensor "on the
card" holds one on the processor, and every operation is done there. As on a real card an operation
on tensors of both places is an error, and so is `numpy()`. Random numbers are the processor's, so
that results on both devices agree to the last digits.

It is also as poor as the poorest card, Apple's MPS: it refuses float64, border padding, and every
operation that has no kernel for MPS in PyTorch's own table.

Importing this makes it the machine's accelerator, in the whole process and for good: import it in a
process of its own. The directory of this file as PYTHONPATH does so in every Python that starts.
"""

from importlib.resources import files

import torch
import yaml
from accelerate.state import PartialState
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map

NAME = "card"
KINDS = ("bilinear", "bicubic")
#: What a real card takes from the processor: copies, and places to look at or write to.
MAY_MIX = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
#: They ask for their memory inside, where it could not be filled: they are made here as a whole.
MADE = (
    "arange arange.start arange.start_step empty.memory_format empty_strided eye eye.m linspace "
    "randperm randperm.generator"
)


def lacked_by_mps() -> set[str]:
    """Operations with a kernel for processors and neither one for MPS nor one for all devices."""
    table = files("torchgen") / "packaged/ATen/native/native_functions.yaml"
    read = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: a kernel must start in time
    entries = {f["func"].split("(")[0]: f for f in yaml.load(table.read_text(), read)}
    kernels = {name: ", ".join(entry.get("dispatch", {})) for name, entry in entries.items()}
    # These are there today, but were not in the oldest PyTorch that the book takes.
    lacked = {f"_upsample_{kind}2d_aa{end}" for kind in KINDS for end in ("", "_backward")}
    for name, entry in entries.items():
        has = kernels[entry.get("structured_delegate", name)]
        if "CPU" in has and "MPS" not in has and "Composite" not in has:
            lacked.add(name.removesuffix(".default"))
    return lacked


LACKED = lacked_by_mps()


class OnCard(torch.Tensor):
    """A tensor on the stand-in; its numbers are in `host`."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "OnCard":
        if host.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"Cannot convert a {NAME} Tensor to {host.dtype}: use float32")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::")
        if {name, f"{name}.{operation._overloadname}"} & LACKED:
            raise NotImplementedError(f"The operator 'aten::{name}' is not there on the {NAME}")
        if name.startswith("grid_sampler") and 1 in args[-2:-1]:
            raise RuntimeError(f"{NAME}: Unsupported Border padding mode")
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if name not in MAY_MIX and any(x.ndim and not isinstance(x, cls) for x in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
        device = kwargs.get("device")
        on_host = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
        out = operation(*tree_map(hosted, args), **tree_map(hosted, on_host))
        if name == "copy_":
            return args[0]
        back = device is not None and torch.device(device).type == "cpu"

        def wrapped(x):
            if back or not isinstance(x, torch.Tensor):
                return x
            for own in tensors:  # changed in place
                if isinstance(own, cls) and own.host is x:
                    return own
            return cls(x)

        return tree_map(wrapped, out)

    def tolist(self):
        return self.host.tolist()

    def untyped_storage(self):
        return self.host.untyped_storage()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy: copy it to the CPU")

    __array__ = numpy

    def __repr__(self) -> str:
        return f"{self.host!r} on the {NAME}"


def hosted(x):
    return x.host if isinstance(x, OnCard) else x


class Backend(backend_registration._DummyBackendModule):
    """What PyTorch asks of a device's module."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


def made_by(operation):
    def make(*args, **kwargs):
        kwargs.pop("pin_memory", None)
        return OnCard(operation(*args, **{**kwargs, "device": torch.device("cpu")}))

    return make


def copy_from(source, target, non_blocking=False):
    hosted(target).copy_(hosted(source))
    return target


backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
kernels = torch.library.Library("aten", "IMPL")
for each in MADE.split():
    packet, _, overload = each.partition(".")
    of = getattr(getattr(torch.ops.aten, packet), overload or "default")
    kernels.impl(each, made_by(of), "PrivateUse1")
kernels.impl("_copy_from", copy_from, "PrivateUse1")
# accelerate knows the cards of makers only
PartialState.default_device = property(lambda self: torch.device(NAME, 0))
