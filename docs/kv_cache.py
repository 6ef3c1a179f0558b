# %% [markdown]
# # What a 4-bit K loses, and what rotation changes
#
# Run it with `python docs/kv_cache.py`, or cell by cell in VS Code or Jupyter (jupytext). It needs matplotlib and
# about ten seconds on two cores, and saves `kv_cache.png` in the current folder. docs/python.md explains each call.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyllm

LAYER, HEAD = 19, 0  # a layer of SmolLM2-135M in which a few channels of K are far larger than the others
TEXT = """The harbour lay still before sunrise, and the fishing boats knocked softly against the old stone wall. Marta
counted the crates on the quay, wrote the numbers into her book, and looked up at the sky. Clouds were coming in from
the west, low and grey, and the gulls had moved inland an hour ago. Her grandfather used to say that gulls know the
weather two days before the radio does. She never believed him, but she always checked. When the wind turned, the
water turned with it, and small waves began to run along the wall. One of the skippers called out and asked whether
she would wait for the ice. She shook her head. The lorry from the city would be late again, because the coast road
was closed after the landslide, and the ice would melt before noon. So they carried the crates into the cold store,
which was cut into the rock behind the chapel and kept its temperature through the whole summer. It took eleven people
and half an hour. Then the rain came, first a few heavy drops and then all at once, and everybody stood in the doorway
and laughed."""


# %% [markdown]
# ## One model, several caches
# The reference keeps K and V in f32. The others quantize K of one layer and nothing else, over the same weights, so
# the K that is quantized there is the same as in the reference. `cache_rotate="none"` stores K as it is; `k` rotates
# it.

# %%
exact = pyllm.LLM(cache=pyllm.CacheSpec("f32", "f32"), n_ctx=512, max_logits=64)
tokens = exact.tokenize(TEXT)


def run(llm):
    """Return (logits, K, attention weights) of the text: (tokens, n_vocab), (tokens, KV heads, 64), (n, heads, n)."""
    return llm.logits(tokens), llm.kv(LAYER)[0], llm.attention(LAYER)


def run_with(cache_type, rotate):
    """Return the same with K of LAYER kept in this type."""
    with exact.beside(pyllm.CacheSpec(f"{LAYER}:{cache_type},*:f32", "f32", rotate)) as llm:
        return run(llm)


logits, k, weights = run(exact)
runs = {(name, rotate): run_with(name, rotate) for name in ("q8_0", "q4_0") for rotate in ("none", "k")}
runs["f16", "none"] = run_with("f16", "none")


# %% [markdown]
# ## Rotation, in three lines
# The Walsh-Hadamard matrix mixes all 64 channels of a head with signs + and -. It is orthogonal and symmetric, so it
# is its own inverse, and Q·K stays as it is, since Q is rotated too. A large channel is spread over all of them, and
# the blocks of 32 values that share a scale become alike. Rotating the cache's K back makes it comparable with the
# exact K.

# %%
hadamard = np.ones((1, 1), np.float32)
while len(hadamard) < k.shape[-1]:
    hadamard = np.kron(hadamard, np.array([[1, 1], [1, -1]], np.float32)) / np.float32(np.sqrt(2))

assert np.allclose(hadamard @ hadamard, np.eye(len(hadamard)), atol=1e-5)
k_hat = {key: found[1] @ hadamard if key[1] == "k" else found[1] for key, found in runs.items()}


def peak(x):
    """Return how far the largest value of a block of 32 stands above the block's RMS, on average."""
    blocks = x.reshape(-1, 32)
    return float((np.abs(blocks).max(axis=1) / np.sqrt((blocks**2).mean(axis=1))).mean())


print(f"largest value of a block / RMS of the block: {peak(k):.2f} as it is, {peak(k @ hadamard):.2f} rotated")


# %% [markdown]
# ## The error of K, of the attention weights and of the logits
# The error of K is relative: RMS of the error over RMS of K. The other two are KL divergences from the reference in
# nats, as means over queries and heads, and over tokens. The row of f16 shows the floor of the last column: products
# with quantized weights round their activations, and a tiny change of K tips some of them to the next step. With the
# same weights in an F32 file the floor is 0.000000, and q8_0, not rotated, is at 0.000072.


# %%
def rms(x, axis=None):
    return np.sqrt((x.astype(np.float64) ** 2).mean(axis=axis))


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(p, log_p, log_q):
    return float((p * (log_p - log_q)).sum(axis=-1).mean())


log_p, tiny = log_softmax(logits), np.float32(1e-30)
print(f"\n{len(tokens)} tokens, K of layer {LAYER} alone is quantized\n")
print("K      rotated   error of K   KL divergence of attention   KL divergence of logits")
for (name, rotate), (logits_hat, _, weights_hat) in sorted(runs.items()):
    of_k = rms(k_hat[name, rotate] - k) / rms(k)
    of_weights = divergence(weights, np.log(weights + tiny), np.log(weights_hat + tiny))
    of_logits = divergence(np.exp(log_p), log_p, log_softmax(logits_hat))
    print(f"{name:6} {'yes' if rotate == 'k' else 'no':9} {of_k:9.2%}   {of_weights:26.6f}   {of_logits:23.6f}")


# %% [markdown]
# ## The error by channel
# A block of q4_0 has one scale for 32 channels, so its largest channel sets the step for all of them.

# %%
size = rms(k[:, HEAD], axis=0)
curves = {key: rms((k_hat[key] - k)[:, HEAD], axis=0) for key in (("q4_0", "none"), ("q4_0", "k"), ("q8_0", "none"))}
largest = int(size.argmax())
inside = np.arange(64) // 32 == largest // 32
worse = rms(curves["q4_0", "none"][inside]) / rms(curves["q4_0", "none"][~inside])
better = rms(curves["q4_0", "none"]) / rms(curves["q4_0", "k"])

figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
axes.bar(range(64), size, width=0.8, color="#d5d9e0", label="K itself")
for key, label, colour, marker in (
    (("q4_0", "none"), "error in q4_0", "#d55e00", "s"),
    (("q4_0", "k"), "error in q4_0, rotated", "#0072b2", "o"),
    (("q8_0", "none"), "error in q8_0", "#009e73", "^"),
):
    axes.plot(curves[key], color=colour, marker=marker, markersize=4, linewidth=1.5, label=label)
axes.axvline(31.5, color="#6b7280", linewidth=1, linestyle="--")
axes.set_yscale("log")
axes.set_ylim(curves["q8_0", "none"].min() / 2, size.max() * 4)
axes.set_xlim(-1, 64)
axes.set_xticks([*range(0, 64, 8), 63])
axes.yaxis.set_major_formatter("{x:g}")
for at, text in ((15.5, "block of channels 0-31"), (47.5, "block of channels 32-63")):
    axes.text(at, size.max() * 2.2, text, ha="center", va="center", color="#4b5563")
axes.set_xlabel("channel of the head")
axes.set_ylabel("RMS over tokens (units of K)")
axes.annotate(
    f"channel {largest} sets the scale:\nits own error is small,\nthe others' is large",
    (largest, curves["q4_0", "none"][largest]),
    (largest + 2, size.max() / 3800),
    fontsize=9,
    color="#1f2328",
    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85},
)
figure.suptitle(
    f"One large channel of K makes its block's q4_0 error {worse:.1f} times that of the other block;\n"
    f"rotation spreads it, and the error of the head is {better:.1f} times smaller",
    x=0.01,
    ha="left",
    fontsize=12,
    fontweight="bold",
)
axes.set_title(f"SmolLM2-135M, layer {LAYER}, KV head {HEAD}, {len(tokens)} tokens", loc="left", fontsize=9)
for side in ("top", "right"):
    axes.spines[side].set_visible(False)
figure.legend(loc="outside lower center", ncols=4, frameon=False)
figure.savefig("kv_cache.png", dpi=150)
exact.close()
