"""Records what llama.cpp says of the tiny models of `tests/architectures.py`, for test_logits.py.

    python tests/models/arch/record_logits.py FOLDER [NAME...]

FOLDER holds a libllama.so of llama.cpp and those that it needs; recorded with b11434. All logits of the prompt in one
batch, K and V in float32, without flash attention, rotation or repacked weights. NAME: all models without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from architectures import CASES, STEP, TOKENS, recording, write

I32, U32, F32, PTR, BOOL = ctypes.c_int32, ctypes.c_uint32, ctypes.c_float, ctypes.c_void_p, ctypes.c_bool


def struct(name: str, fields: list[tuple[str, Any]]) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def several(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


ModelParams = struct("llama_model_params", [
    *several(PTR, "devices tensor_buft_overrides"),
    *several(I32, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
    *several(PTR, "tensor_split progress_callback progress_callback_user_data kv_overrides"),
    *several(BOOL, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp"),
])  # fmt: skip
ContextParams = struct("llama_context_params", [
    *several(U32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
    *several(I32, "n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type"),
    *several(F32, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
    *several(U32, "yarn_orig_ctx"), *several(F32, "defrag_thold"), *several(PTR, "cb_eval cb_eval_user_data"),
    *several(I32, "type_k type_v"), *several(PTR, "abort_callback abort_callback_data"),
    *several(BOOL, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
    *several(PTR, "samplers"), *several(ctypes.c_size_t, "n_samplers"), *several(PTR, "ctx_other"),
])  # fmt: skip
Batch = struct("llama_batch", [
    ("n_tokens", I32), ("token", ctypes.POINTER(I32)), ("embd", PTR), ("pos", ctypes.POINTER(I32)),
    ("n_seq_id", ctypes.POINTER(I32)), ("seq_id", ctypes.POINTER(ctypes.POINTER(I32))),
    ("logits", ctypes.POINTER(ctypes.c_int8)),
])  # fmt: skip


def load_library(folder: Path) -> Any:
    os.environ["LLAMA_ATTN_ROT_DISABLE"] = "1"
    lib = ctypes.CDLL(str(folder / "libllama.so"))
    lib.llama_model_default_params.restype = ModelParams
    lib.llama_context_default_params.restype = ContextParams
    lib.llama_batch_init.restype = Batch
    for name in ("llama_model_load_from_file", "llama_init_from_model"):
        getattr(lib, name).restype = PTR
    lib.llama_get_logits_ith.restype = ctypes.POINTER(F32)
    lib.llama_decode.argtypes = [PTR, Batch]
    lib.llama_get_logits_ith.argtypes = [PTR, I32]
    return lib


def logits(lib: Any, path: Path, n_vocab: int) -> np.ndarray:
    """After each of TOKENS."""
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model = PTR(lib.llama_model_load_from_file(str(path).encode(), model_params))
    assert model, f"llama.cpp refuses {path}"
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
    params.flash_attn_type, params.type_k, params.type_v = 0, 0, 0  # disabled, f32, f32
    context = PTR(lib.llama_init_from_model(model, params))
    assert context
    batch = lib.llama_batch_init(len(TOKENS), 0, 1)
    batch.n_tokens = len(TOKENS)
    for i, token in enumerate(TOKENS):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert lib.llama_decode(context, batch) == 0
    rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (n_vocab,)).copy() for i in range(len(TOKENS))]
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def main(folder: Path, names: list[str]) -> None:
    from pyllm.models.file.gguf import GGUF

    lib = load_library(folder)
    for name, kind in CASES:
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as where:
            path = write(Path(where), name, kind)
            found = logits(lib, path, GGUF.open(path).tensors["token_embd.weight"].shape[0])
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        to = recording(name, kind)
        to.parent.mkdir(exist_ok=True)
        np.savez_compressed(to, logits=found[:, ::STEP].astype(np.float16), model=digest)
        print(f"{to}: {to.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
