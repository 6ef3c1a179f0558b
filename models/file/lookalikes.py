"""Files that are no model in GGUF but are taken for one: told by their first bytes, or by what a GGUF says it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError

if TYPE_CHECKING:
    from .gguf import GGUF

HEAD = 4096  # bytes that `of_bytes` needs

GET = "take a .gguf file of the model"
CONVERT = f"convert it with llama.cpp's convert_hf_to_gguf.py, or {GET}"
AGAIN = "download the file itself again"
UNPACK = "unpack it, and give the .gguf file in it"
OLD = f"{CONVERT} that is newer"

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb".{7}\0\{", "a safetensors file", CONVERT),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--)", "a web page", AGAIN),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|error)", "an XML text, perhaps a server's error", AGAIN),
    (rb"(\xef\xbb\xbf)?\s*[{\[]", "a JSON text", GET),
    (rb"PK\x03\x04", "a zip archive, as PyTorch's .bin and .pt files and wheels are", CONVERT),
    (rb"\x80[\x02-\x05]([c}\x95]|\x8a\nl\xfc)", "a pickle, as PyTorch's old .bin and .pth are", CONVERT),
    (rb"\x1f\x8b", "a gzip archive", UNPACK),
    (rb"\xfd7zXZ\0", "an xz archive", UNPACK),
    (rb"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (rb"BZh[1-9]", "a bzip2 archive", UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (rb"Rar!", "a RAR archive", UNPACK),
    (rb".{257}ustar", "a tar archive", UNPACK),
    (rb"lmgg|fmgg|tjgg|algg", "a GGML file (an older format of llama.cpp)", OLD),
    (rb"nsgg|qsgg|asgg", "a saved session of llama.cpp", GET),
    (rb"\x89HDF\r\n", "an HDF5 file", CONVERT),
    (rb"\x93NUMPY", "a NumPy array", CONVERT),
    (rb".{4}TFL3", "a TensorFlow Lite model", GET),
    (rb"\x08[\x01-\x0f]\x12.{1,40}(pytorch|onnx|tf2onnx)", "an ONNX model", GET),
    (rb"%PDF-", "a PDF", GET),
    (rb"\x7fELF|MZ.{62}|\xcf\xfa\xed\xfe", "a program", GET),
    (rb"\0{32}", "zeros, as an unfinished download is", AGAIN),
)  # fmt: skip

PROJECTOR = ("a projector for images or sound", "give the model; pyllm reads text only")

# By general.type.
_TYPES: dict[str, tuple[str, str]] = {
    "adapter": ("an adapter (LoRA)", "give the model; llama.cpp's llama-export-lora merges the adapter into it"),
    "imatrix": ("an importance matrix", "give the model; the matrix only serves to quantize one"),
    "mmproj": PROJECTOR,
    "clip-vision": PROJECTOR,
    "control vector": ("a control vector", "give the model; pyllm applies no vectors to it"),
    "vocab": ("a vocabulary without weights", GET),
}
_BY_ARCHITECTURE = {"clip": "mmproj", "controlvector": "control vector"}
_JOINED = re.compile(rb"GGUF[\x01-\x03]\0\0\0")


def of_bytes(head: bytes) -> tuple[str, str]:
    """Return (what, cure) of a file with these first bytes; ("", "") if they tell nothing."""
    for pattern, what, cure in _KINDS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return what, cure
    return "", ""


def check_model(g: GGUF) -> None:
    """Raise ModelError if a GGUF says that it is something other than a model, or has no weights."""
    said, architecture = (g.metadata.get(f"general.{key}") for key in ("type", "architecture"))
    key, kind = "general.type", said
    if said in (None, "model"):
        key, kind = _told(g, architecture)
        if not kind:
            return
    what, cure = _TYPES.get(str(kind), ("", GET))
    this = f"this is {what}, not a model" if what else "this is not a model"
    raise ModelError(g.path, key, f"is {str(g.metadata[key])[:60]!a}: {this}", cure)


def _told(g: GGUF, architecture: object) -> tuple[str, str]:
    """Return (key, kind) of a file of older programs, which do not say their kind; (key, "") of a model."""
    if isinstance(architecture, str) and architecture in _BY_ARCHITECTURE:
        return "general.architecture", _BY_ARCHITECTURE[architecture]
    for key, kind in (("adapter.type", "adapter"), ("imatrix.datasets", "imatrix"), ("clip.projector_type", "mmproj")):
        if key in g.metadata:
            return key, kind
    if not g.tensors and "tokenizer.ggml.model" in g.metadata:
        return "tokenizer.ggml.model", "vocab"
    return "general.type", ""


def is_joined(g: GGUF) -> bool:
    """Return whether more files follow a part of a split model in its file, as `cat` joins them."""
    buffer = g.mapped[0].buffer
    end = 24
    if g.tensors:
        begin = np.frombuffer(buffer, np.uint8).ctypes.data
        end = max(tensor.data.ctypes.data - begin + tensor.data.nbytes for tensor in g.tensors.values())
    following = buffer[end : end + (1 << 20)]
    return _JOINED.search(following) is not None
