"""An unpickler that admits numpy arrays and plain containers, and runs no code of the file.

The official CIFAR-10 files are pickles. A pickle is a program: it names importable objects and
calls them. Here no name is imported at all. The few names with which numpy writes an array are
replaced by inert stand-ins that only store their arguments; the array is then built from the
stored bytes, after its type and shape have been checked. Every other name is refused.

Source of the format: the reductions of `numpy.ndarray` and `numpy.dtype` (NEP-free, stable since
numpy 1.0; `numpy.core` became `numpy._core` in 2.0; protocol 5 uses `_frombuffer`).
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError

_ELEMENTS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
# What the class object `numpy.ndarray` becomes: text, so that no operation of a pickle does harm.
_NDARRAY = "numpy.ndarray"
_MOST_AXES = 8
_LONGEST_AXIS = 1 << 40


class _Refused(pickle.UnpicklingError):
    """The file names something other than a numpy array."""


class _Element:
    """Stand-in for `numpy.dtype`: integers only."""

    __slots__ = ("code",)

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in _ELEMENTS:
            raise _Refused(f"an array of {_shown(text)}; expected one of {', '.join(_ELEMENTS)}")
        self.code = "<" + str(text)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2:
            raise _Refused("an array type with a malformed state")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">"):
            raise _Refused(f"an array type of byte order {_shown(order)}")
        self.code = (">" if order == ">" else "<") + self.code[1:]


class _Array:
    """Stand-in for `numpy.core.multiarray._reconstruct(ndarray, (0,), b'b')` and its state."""

    __slots__ = ("array",)

    def __init__(self, subtype: object, shape: object, typecode: object) -> None:
        if subtype is not _NDARRAY:
            raise _Refused("a subclass of an array")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array with a malformed state")
        _version, shape, element, is_fortran, data = state
        self.array = _built(data, element, shape, "F" if is_fortran else "C")


class _BufferArray(_Array):
    """Stand-in for `numpy._core.numeric._frombuffer` (protocol 5)."""

    __slots__ = ()

    def __init__(self, data: object, element: object, shape: object, order: object) -> None:
        self.array = _built(data, element, shape, order)

    def __setstate__(self, state: object) -> None:
        raise _Refused("an array with a second state")


def _shown(value: object) -> str:
    # Never the repr of a value that may be nested without end.
    return repr(value[:20]) if isinstance(value, str) else f"a {type(value).__name__}"


def _built(data: object, element: object, shape: object, order: object) -> NDArray[np.generic]:
    if not isinstance(data, bytes | bytearray) or not isinstance(element, _Element):
        raise _Refused("an array without plain bytes")
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and 0 <= n < _LONGEST_AXIS for n in shape)
    ):
        raise _Refused("an array without a plain shape")
    if order not in ("C", "F"):
        raise _Refused(f"an array of memory order {_shown(order)}")
    dtype = np.dtype(element.code)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise _Refused(f"an array of shape {shape} with {len(data)} bytes of data")
    flat = np.frombuffer(bytes(data), dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


_STAND_INS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Element,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _BufferArray,
    ("numpy._core.numeric", "_frombuffer"): _BufferArray,
}


_KNOWN: dict[int, Any] = pickle._Unpickler.dispatch


def _load_bytearray8(unpickler: Any) -> None:
    (size,) = struct.unpack("<Q", unpickler.read(8))
    data = unpickler.read(size)
    if len(data) != size:
        raise pickle.UnpicklingError("a bytearray ends early")
    unpickler.append(bytearray(data))


def _with_text(unpickler: Any, keys: Sequence[object], operation: bytes) -> None:
    for key in keys:
        if not isinstance(key, bytes | str):
            raise _Refused(f"a {type(key).__name__} as a key")
    _KNOWN[operation[0]](unpickler)


def _refuse_set(unpickler: Any) -> None:
    raise _Refused("a set")


class _ArrayUnpickler(pickle._Unpickler):
    """The Python unpickler: the one in C reacts to a damaged memo index by touching gigabytes.

    Here too, only `find_class` resolves names. Only the bytes present in the file are allocated: a
    size that the file states is never trusted. Only text is hashed: hashing a tuple that holds
    another tuple twice, and so on, takes time that doubles with each level.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        **_KNOWN,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
        pickle.SETITEM[0]: lambda self: _with_text(self, self.stack[-2:-1], pickle.SETITEM),
        pickle.SETITEMS[0]: lambda self: _with_text(self, self.stack[::2], pickle.SETITEMS),
        pickle.DICT[0]: lambda self: _with_text(self, self.stack[::2], pickle.DICT),
        **dict.fromkeys(
            (pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _refuse_set
        ),
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def arrays_from_pickle(data: bytes, *, source: str) -> dict[str, object]:
    """Read a pickled dictionary of numpy arrays, lists, numbers and text.

    ``data`` is the file (any pickle protocol, Python 2 too), ``source`` its name for messages. Keys
    come as text, arrays as read-only integer `ndarray`s, text in values as the file has it.

    Raises:
        InputError: the file is truncated, is not a pickle, names anything but a numpy array of
            integers, or does not hold a dictionary.
    """
    try:
        # Python 2 text comes as bytes; nothing is decoded that may be image data.
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise InputError(
            f"{source}: refused, because this pickle holds {error}; expected a dictionary of "
            "numpy arrays, lists, numbers and text, as in the official CIFAR-10 files, because "
            "anything else could run code; get the official archive with: qadtr data cifar10 DIR"
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            f"{source}: not a readable pickle ({type(error).__name__}: {error}); the file has "
            f"{len(data):,} bytes and is probably truncated or damaged; copy it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected a pickled dictionary, got a {type(content).__name__}")
    plain: dict[str, object] = {}
    for key, value in content.items():
        name = key.decode("latin1") if isinstance(key, bytes) else key
        # A stand-in that never received its data has no array.
        plain[name] = getattr(value, "array", None) if isinstance(value, _Array) else value
    return plain
