"""Damages a model's file, in bytes, in the integers of its header, in its meaning, or in its tensors' values.

All choices are those of the `Random` that is handed in: a case is its number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from random import Random

from fuzz.corpus import Model
from fuzz.parts import ARRAY, SIZES, STRING, Info, Pair, Parts, array, string, strings


def _words(text: str) -> list[str]:
    return text.split()


INTEGERS = [0, 1, 2, 3, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000, 4096, 65535, 65536, 1 << 20,
            1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, 1 << 62, (1 << 63) - 1, 1 << 63,
            (1 << 64) - 32, (1 << 64) - 1]  # fmt: skip
FLOATS = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1.0, 1e-45, 1e-30, 1e-7, 0.5, 1.0, 2.0, 1e4, 1e15,
          3e38]  # fmt: skip
TYPES = [*range(42), 99, 1 << 31]
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
          11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98),
          19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 29: (256, 56), 30: (1, 2),
          34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36)}  # fmt: skip
"""Values and bytes of a block of each ggml type that a model may have, pyllm's own and those that it decodes."""

HYPER = _words("""block_count context_length embedding_length feed_forward_length vocab_size attention.head_count
attention.head_count_kv attention.key_length attention.value_length attention.layer_norm_rms_epsilon
attention.layer_norm_epsilon attention.sliding_window attention.sliding_window_pattern attention.scale
attention.temperature_scale attn_logit_softcapping final_logit_softcapping logit_scale residual_scale embedding_scale
rope.dimension_count rope.freq_base rope.freq_base_swa rope.scale_linear rope.scaling.type rope.scaling.factor
rope.scaling.attn_factor rope.scaling.original_context_length rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
rope.scaling.yarn_log_multiplier rope.scaling.finetuned expert_count expert_used_count expert_feed_forward_length""")
OTHERS = _words("""general.name general.type general.alignment general.architecture split.no split.count
split.tensors.count tokenizer.ggml.model tokenizer.ggml.pre tokenizer.ggml.tokens tokenizer.ggml.scores
tokenizer.ggml.token_type tokenizer.ggml.merges tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id
tokenizer.ggml.eot_token_id tokenizer.ggml.unknown_token_id tokenizer.ggml.padding_token_id
tokenizer.ggml.fim_pad_token_id tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token
tokenizer.ggml.add_space_prefix tokenizer.chat_template""")
WORDS = _words("""llama qwen2 qwen3 gemma2 gemma3 phi3 smollm3 mistral3 granite olmo2 qwen3moe gpt-oss gpt2 gemma4
linear yarn longrope none adapter imatrix mmproj gpt-2 llama-bpe qwen2 tekken deepseek-llm deepseek-v3 gpt-4o
starcoder Phi-3""")
TEXTS = [b"", b" ", b"\0", b"\n", b"a", b"a b", b"a b c", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", "é".encode(),
         "▁".encode(), "🦙".encode(), b"<0x00>", b"<0xFF>", b"<0xG0>", b"<unk>", b"<s>", b"</s>", b"<|im_end|>",
         b"<|endoftext|>", b"<|end|>", b"<|return|>", b"<|call|>", b"<|channel|>", b"\x1b[2J", b"x" * 1000,
         b"x" * 70000, b"%s%n{}[](.*)\\", *(word.encode() for word in WORDS)]  # fmt: skip
TEMPLATES = """{{ messages }}|{{ messages[0].content|upper }}|{% for m in messages %}{{ m.role }}{% endfor %}|{{ 1/0 }}
{% for i in range(10**9) %}x{% endfor %}|{{ 'x' * 10**9 }}|{{ raise_exception('no') }}|{% raw %}|{{|{% if %}|{{ x.y.z }}
{{ ''.__class__ }}|{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}|{{ '\\ud800' }}|{% set ns = namespace(a=[]) %}
{{ 10**(10**8) }}|{% include 'x' %}|{{ strftime_now('%Y' * 9999) }}|{{ (1, 2)|tojson(indent=10**9) }}|{{ bos_token }}
{{ '%999999999d' % 1 }}|{% generation %}x{% endgeneration %}|{{ messages|map('x')|list }}|{{ [[1]] * 10**8 }}|x
""".replace("\n", "|").split("|")


def integer(random: Random, old: int = 0) -> int:
    """Return an integer that is likely to be wrong: a limit, or a neighbour of the old one."""
    near = [old + 1, old - 1, old * 2, old // 2, old + 32, old ^ 1 << random.randrange(64), -old, old * 3]
    return random.choice(INTEGERS) if random.random() < 0.5 else random.choice(near)


def text(random: Random) -> bytes:
    if random.random() < 0.7:
        return random.choice(TEXTS)
    return "".join(random.choices("ab <>|_▁é\n\t{}%'\"0x", k=random.randrange(1, 12))).encode()


# The bytes of a file --------------------------------------------------------------------------------------------------


def flip(random: Random, raw: bytearray, end: int, model: Model) -> None:
    raw[random.randrange(end)] ^= 1 << random.randrange(8)


def overwrite(random: Random, raw: bytearray, end: int, model: Model) -> None:
    at, patch = random.randrange(end), random.choice([random.randbytes(random.randrange(1, 32)), b"\xff" * 8, bytes(8)])
    raw[at : at + len(patch)] = patch


def number(random: Random, raw: bytearray, end: int, model: Model) -> None:
    """Change one of the integers that say how to read the header."""
    at, size = random.choice(model.fields)
    old = int.from_bytes(raw[at : at + size], "little")
    raw[at : at + size] = (integer(random, old) % (1 << 8 * size)).to_bytes(size, "little")


def cut(random: Random, raw: bytearray, end: int, model: Model) -> None:
    del raw[random.randrange(end if random.random() < 0.8 else len(raw)) :]


def take_out(random: Random, raw: bytearray, end: int, model: Model) -> None:
    at = random.randrange(end)
    del raw[at : at + random.randrange(1, 64)]


def put_in(random: Random, raw: bytearray, end: int, model: Model) -> None:
    at = random.randrange(end)
    raw[at:at] = random.randbytes(random.randrange(1, 64)) if random.random() < 0.5 else raw[at : at + 32]


BYTES: list[Callable[[Random, bytearray, int, Model], None]] = [
    flip, flip, overwrite, number, number, number, cut, take_out, put_in,
]  # fmt: skip


def bytes_damaged(random: Random, model: Model, raw: bytearray | None = None) -> bytearray:
    """Return a file with its header damaged; raw: of the model, damaged otherwise before."""
    out = bytearray(model.raw) if raw is None else raw
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if len(out) > 8:
            random.choice(BYTES)(random, out, min(model.head, len(out)), model)
    return out


# The meaning of a header ----------------------------------------------------------------------------------------------


def scalar(random: Random, kind: int) -> bytes:
    """Return the bytes of a value of a type of fixed size."""
    if kind == 6:
        return struct.pack("<f", random.choice(FLOATS))
    if kind == 12:
        return struct.pack("<d", random.choice([*FLOATS, 1e300]))
    if kind == 7:
        return bytes([random.choice((0, 0, 1, 1, 2))])
    return (integer(random, random.randrange(300)) % (1 << 8 * SIZES[kind])).to_bytes(SIZES[kind], "little")


def value(random: Random, model: Model) -> tuple[int, bytes]:
    """Return (type, bytes) of a new value."""
    kind = random.choice((4, 4, 4, 5, 6, 6, 7, 0, 1, 2, 3, 10, 11, 12, STRING, STRING, ARRAY))
    if kind == STRING:
        return kind, string(text(random))
    if kind == ARRAY:
        of, n = random.choice((4, 5, 6, 7, STRING)), random.choice((0, 1, 2, 3, 7, 8, 272))
        return kind, array(of, [text(random) if of == STRING else scalar(random, of) for _ in range(n)])
    return kind, scalar(random, kind)


def key(random: Random, model: Model) -> bytes:
    if random.random() < 0.6:
        return model.arch + b"." + random.choice(HYPER).encode()
    return random.choice(OTHERS).encode()


def hyperparameter(random: Random, parts: Parts, model: Model) -> Parts:
    """Change the value of a pair that is there, of the same type, or write any that pyllm reads."""
    if random.random() < 0.5:
        return parts.with_pair(key(random, model), *value(random, model))
    scalars = [pair for pair in parts.pairs if pair.kind in SIZES]
    if not scalars:
        return parts
    pair = random.choice(scalars)
    if pair.kind in (6, 7, 12):
        return parts.with_pair(pair.key, pair.kind, scalar(random, pair.kind))
    size = SIZES[pair.kind]
    new = integer(random, int.from_bytes(pair.value, "little")) % (1 << 8 * size)
    return parts.with_pair(pair.key, pair.kind, new.to_bytes(size, "little"))


def pair_moved(random: Random, parts: Parts, model: Model) -> Parts:
    """Take out, repeat, rename or swap a pair."""
    pairs = list(parts.pairs)
    if not pairs:
        return parts
    at, other, what = random.randrange(len(pairs)), random.randrange(len(pairs)), random.random()
    if what < 0.4:
        del pairs[at]
    elif what < 0.55:
        pairs.insert(other, pairs[at])
    elif what < 0.8:
        pairs[at] = replace(pairs[at], key=key(random, model) if random.random() < 0.8 else text(random))
    else:
        one, two = pairs[at], pairs[other]
        pairs[at], pairs[other] = Pair(one.key, two.kind, two.value), Pair(two.key, one.kind, one.value)
    return replace(parts, pairs=tuple(pairs))


def renamed(random: Random, parts: Parts, model: Model) -> Parts:
    """Say that the model is of another architecture, with its keys."""
    other = random.choice(WORDS[:12]).encode()
    pairs = [Pair(p.key.replace(model.arch + b".", other + b"."), p.kind, p.value) for p in parts.pairs]
    return replace(parts, pairs=tuple(pairs)).with_pair(b"general.architecture", STRING, string(other))


def vocabulary(random: Random, parts: Parts, model: Model) -> Parts:
    """Damage one of the lists of the vocabulary."""
    lists = [p for p in parts.pairs if p.kind == ARRAY and p.key.startswith(b"tokenizer.")]
    if not lists:
        return parts
    pair = random.choice(lists)
    of = int.from_bytes(pair.value[:4], "little")
    if of == STRING:
        items = strings(pair.value)
    elif of in SIZES:
        size = SIZES[of]
        items = [pair.value[i : i + size] for i in range(12, len(pair.value), size)]
    else:
        return parts
    for _ in range(random.choice((1, 1, 3, 30))):
        at = random.randrange(len(items)) if items else 0
        new, what = text(random) if of == STRING else scalar(random, of), random.random()
        if what < 0.5 and items:
            items[at] = new
        elif what < 0.6 and items:
            items[at] = random.choice(items)
        elif what < 0.75 and items:
            del items[at]
        elif what < 0.9:
            items.insert(at, new)
        elif what < 0.95:
            items = [new] * random.choice((0, 1, len(items)))
        elif of == STRING and items:
            random.shuffle(items)
    return parts.with_pair(pair.key, ARRAY, array(of, items))


def template(random: Random, parts: Parts, model: Model) -> Parts:
    return parts.with_pair(b"tokenizer.chat_template", STRING, string(a_template(random)))


def a_template(random: Random) -> bytes:
    """Return a chat template: one of those that do harm, or damaged pieces of several."""
    if random.random() < 0.3:
        return random.choice(TEMPLATES).encode()
    whole = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
    pieces = [random.choice([whole, *TEMPLATES]) for _ in range(random.randrange(1, 4))]
    out = bytearray("".join(pieces).encode())
    for _ in range(random.choice((0, 0, 1, 3))):
        at = random.randrange(len(out) + 1)
        out[at : at + random.randrange(4)] = random.choice((b"", b"%", b"}", b"{", b"'", b"(", b"|", b"\xff", b"9" * 9))
    return bytes(out)


def tensor(random: Random, parts: Parts, model: Model) -> Parts:
    """Damage the description of a tensor, or take it out."""
    infos = list(parts.infos)
    if not infos:
        return parts
    at, other, what = random.randrange(len(infos)), random.randrange(len(infos)), random.random()
    info = infos[at]
    if what < 0.15:
        del infos[at]
    elif what < 0.25:
        infos.insert(other, info if random.random() < 0.3 else replace(info, name=text(random)))
    elif what < 0.35:
        infos[at] = replace(info, name=infos[other].name if random.random() < 0.5 else text(random))
    elif what < 0.5:
        infos[at] = replace(info, kind=random.choice(TYPES))
    elif what < 0.6:
        infos[at] = replace(info, offset=integer(random, info.offset))
    elif what < 0.7:
        infos[at], infos[other] = replace(infos[other], name=info.name), replace(info, name=infos[other].name)
    elif what < 0.85 and info.ne:
        ne = list(info.ne)
        ne[random.randrange(len(ne))] = integer(random, ne[0])
        infos[at] = replace(info, ne=tuple(ne))
    else:
        shapes = [info.ne[::-1], info.ne[:-1], (*info.ne, 1), (*info.ne, 2), (1, *info.ne), (1 << 32, 1 << 32), (0,)]
        infos[at] = replace(info, ne=random.choice(shapes))
    return replace(parts, infos=tuple(infos))


HEADS: list[Callable[[Random, Parts, Model], Parts]] = [
    hyperparameter, hyperparameter, hyperparameter, pair_moved, renamed, vocabulary, vocabulary, template,
    tensor, tensor,
]  # fmt: skip


def head_damaged(random: Random, model: Model) -> bytes | bytearray:
    """Return a file whose header is damaged, in its bytes, its meaning or both."""
    if random.random() < 0.4:
        return bytes_damaged(random, model)
    parts = model.parts
    for _ in range(random.choice((1, 1, 2, 3))):
        parts = random.choice(HEADS)(random, parts, model)
    raw = parts.raw()
    return bytes_damaged(random, model, bytearray(raw)) if random.random() < 0.1 else raw


# The values of tensors ------------------------------------------------------------------------------------------------


def span(model: Model, info: Info) -> tuple[int, int, int]:
    """Return (first byte in the data, bytes, bytes of a block) of a tensor of an undamaged model."""
    size, nbytes = BLOCKS[info.kind]
    n = 1
    for length in info.ne:
        n *= length
    return info.offset, n // size * nbytes, nbytes


SMALL = bytes(byte & 0xBF for byte in range(256))
"""Without the highest bit of an exponent: no byte is one of NaN, infinity or a number above 2."""


def noise(random: Random, n: int) -> bytes:
    """Return random bytes; mostly such that they make finite numbers."""
    raw = random.randbytes(n)
    return raw.translate(SMALL) if random.random() < 0.7 else raw


def values(random: Random, model: Model, data: bytearray) -> None:
    """Damage the values of a tensor: some bytes, a whole block, the floats of some blocks, or all of it."""
    start, nbytes, block = span(model, random.choice(model.parts.infos))
    what = random.random()
    if what < 0.3:
        for _ in range(random.choice((1, 4, 64))):
            data[start + random.randrange(nbytes)] = random.randrange(256)
    elif what < 0.5:
        float16 = random.choice([0x7E00, 0x7C00, 0xFC00, 0x7BFF, 0xFBFF, 0x0001, 0x8000, 0x3C00])
        patch = struct.pack("<f", random.choice(FLOATS)) if block == 4 else struct.pack("<H", float16)
        for _ in range(random.choice((1, 1, 8))):
            at = start + random.randrange(nbytes // block) * block
            at += random.choice((0, 0, block - 2, min(2, block - 2))) if block > 4 else 0
            data[at : at + len(patch)] = patch
    elif what < 0.9:
        n = random.choice((block, block, nbytes))
        at = start + random.randrange((nbytes - n) // block + 1) * block
        data[at : at + n] = random.choice([bytes(n), b"\xff" * n, noise(random, n), noise(random, n), b"\x80" * n])
    else:
        other, m, _ = span(model, random.choice(model.parts.infos))
        n = min(nbytes, m)
        data[start : start + n] = data[other : other + n]


def retyped(random: Random, parts: Parts, model: Model) -> Parts:
    """Give a matrix another type, with random bytes or zeros that suit it."""
    matrices = [i for i, info in enumerate(parts.infos) if len(info.ne) > 1]
    if not matrices:
        return parts
    at = random.choice(matrices)
    info = parts.infos[at]
    kind = random.choice([kind for kind, (size, _) in BLOCKS.items() if info.ne[0] % size == 0])
    size, nbytes = BLOCKS[kind]
    n = info.ne[0] // size * nbytes
    for length in info.ne[1:]:
        n *= length
    new = noise(random, n) if random.random() < 0.7 else bytes([random.randrange(256)]) * n
    data = parts.data + bytes(-len(parts.data) % 32)
    infos = (*parts.infos[:at], replace(info, kind=kind, offset=len(data)), *parts.infos[at + 1 :])
    return replace(parts, infos=infos, data=data + new)


def body_damaged(random: Random, model: Model) -> bytes:
    """Return a file that mostly opens, with other values, other types, or another meaning of its header."""
    parts, what = model.parts, random.random()
    if what < 0.75:
        data = bytearray(parts.data)
        for _ in range(random.choice((1, 1, 2, 3))):
            values(random, model, data)
        parts = replace(parts, data=bytes(data))
    if 0.6 < what < 0.9:
        parts = random.choice((hyperparameter, hyperparameter, vocabulary, renamed))(random, parts, model)
    if what > 0.85:
        parts = retyped(random, parts, model)
    return parts.raw()
