"""llama.cpp's flags that pyllm has not, as data: those without a meaning here, and those that it lacks.

A row has the flag's names, its values as llama.cpp's help writes them ("": none, "N": one, "[on|off]": one of these
words, which may be left out), and, of those that pyllm lacks, the value that asks for nothing, and a cure.
"""

from __future__ import annotations

SWITCH = "[on|off|auto|0|1|enabled|disabled|true|false|-1]"

IGNORED: tuple[tuple[str, str], ...] = (
    ("-ngl --gpu-layers --n-gpu-layers", "N"),
    ("-fa --flash-attn", SWITCH),
    ("--mmap --no-mmap -mmp", "[0|1]"),
    ("-dio --direct-io -ndio --no-direct-io", "[0|1]"),
    ("--mlock --no-host --check-tensors -cl --cache-list --list-devices", ""),
    ("-lm --load-mode --numa --prio --prio-batch --poll --poll-batch --delay", "N"),
    ("-C --cpu-mask -Cr --cpu-range -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch", "N"),
    ("-tb --threads-batch", "N"),
    ("-b --batch-size -ub --ubatch-size", "N"),
    ("-sm --split-mode -mg --main-gpu -ts --tensor-split -dev --device -ot --override-tensor --rpc -rpc", "N"),
    ("-fit --fit", SWITCH),
    ("-fitt --fit-target -fitc --fit-ctx -ncmoe --n-cpu-moe -dt --defrag-thold", "N"),
    ("-kvo --kv-offload -nkvo --no-kv-offload", "[0|1]"),
    ("-cmoe --cpu-moe --repack -nr --no-repack --op-offload --no-op-offload -nopo --swa-full", "[0|1]"),
    ("-kvu --kv-unified --no-kv-unified --no-context-shift -bs --backend-sampling", ""),
    ("-ctxcp --ctx-checkpoints --swa-checkpoints -cram --cache-ram", "N"),
    ("--warmup --no-warmup --perf --no-perf --verbose-prompt --display-prompt --no-display-prompt", ""),
    ("--show-timings --no-show-timings --simple-io -mli --multiline-input --jinja --no-jinja", ""),
    ("-co --color --log-colors", SWITCH),
    ("-cnv --conversation -st --single-turn -i --interactive -if --interactive-first", ""),
    ("--log-disable -v --verbose --log-verbose --log-prefix --no-log-prefix --progress", ""),
    ("--log-timestamps --no-log-timestamps --no-mmproj --no-mmproj-auto --mmproj-auto", ""),
    ("-lv --verbosity --log-verbosity --log-file -ptc --print-token-count", "N"),
    ("--reasoning-format", "N"),
)

MODEL: tuple[tuple[str, str], ...] = (
    ("-m --model", "{}"),
    ("-mu --model-url", "{}"),
    ("-hf -hfr --hf-repo", "hf:{}"),
)
"""Other ways to say MODEL, and how pyllm writes the value."""

SWITCHES = ("--cpu-strict",)
"""Flags that pyllm has, after which llama.cpp writes 0 or 1."""

RAW = ("-no-cnv", "--no-conversation")
"""The same as --raw."""

SAMPLING = "--temp, --top-k, --top-p, --min-p and --repeat-penalty choose tokens here"
TEMPLATE = "the model's own template is used, or none with --raw"
ADAPTER = "merge it into the model with llama.cpp's llama-export-lora"
DRAFT = "leave it out: the text is the same without"
FILE = "name the model's file, or hf:USER/REPO/FILE"

LACKING: tuple[tuple[str, str, str | None, str], ...] = (
    ("--keep", "N", "0", "a full context ends the answer"),
    ("--context-shift", "", None, "a full context ends the answer; a larger -c holds more"),
    ("-bf --binary-file", "N", None, "-f reads a text in UTF-8"),
    ("-r --reverse-prompt", "N", None, "leave it out"),
    ("-sp --special", "", None, "leave it out"),
    ("--in-prefix --in-suffix", "N", None, "write them into the prompt, with --raw"),
    ("--in-prefix-bos", "", None, "write it into the prompt, with --raw"),
    ("--samplers --sampler-seq --sampling-seq", "N", None, SAMPLING),
    ("--mirostat --xtc-probability --dry-multiplier --dynatemp-range", "N", "0", SAMPLING),
    ("--presence-penalty --frequency-penalty", "N", "0", SAMPLING),
    ("--top-nsigma --top-n-sigma --adaptive-target", "N", "-1", SAMPLING),
    ("--typical --typical-p", "N", "1", SAMPLING),
    ("--mirostat-lr --mirostat-ent --xtc-threshold --dynatemp-exp --adaptive-decay", "N", None, SAMPLING),
    ("--dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker", "N", None, SAMPLING),
    ("-l --logit-bias", "N", None, SAMPLING),
    ("--grammar --grammar-file -j --json-schema -jf --json-schema-file", "N", None, "ask for the form in the prompt"),
    ("--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale", "N", None, "the model's own RoPE is used"),
    ("--yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast", "N", "-1", "the file's own are used"),
    ("--yarn-orig-ctx", "N", "0", "the file's own is used"),
    ("-gan --grp-attn-n", "N", "1", "leave it out"),
    ("-gaw --grp-attn-w", "N", "512", "leave it out"),
    ("--override-kv", "N", None, "change the file with llama.cpp's gguf_set_metadata.py"),
    ("--lora", "N", None, ADAPTER),
    ("--lora-scaled", "N", None, ADAPTER),
    ("--control-vector --control-vector-scaled", "N", None, "leave it out"),
    ("--control-vector-layer-range", "N N", None, "leave it out"),
    ("-mm --mmproj -mmu --mmproj-url --image --audio --video", "N", None, "pyllm reads text only"),
    ("--image-min-tokens --image-max-tokens", "N", None, "pyllm reads text only"),
    ("--chat-template --chat-template-file --chat-template-kwargs", "N", None, TEMPLATE),
    ("-rea --reasoning", SWITCH, "auto", TEMPLATE),
    ("--reasoning-effort", "N", "default", TEMPLATE),
    ("--reasoning-budget", "N", "-1", TEMPLATE),
    ("--reasoning-budget-message", "N", None, TEMPLATE),
    ("--prompt-cache", "N", None, "leave it out"),
    ("--prompt-cache-all --prompt-cache-ro", "", None, "leave it out"),
    ("-md --model-draft -hfd -hfrd --hf-repo-draft --draft --draft-n --draft-max --draft-min", "N", None, DRAFT),
    ("--draft-n-min --draft-p-min -ngld --gpu-layers-draft --n-gpu-layers-draft -devd --spec-type", "N", None, DRAFT),
    ("-ctkd --cache-type-k-draft -ctvd --cache-type-v-draft -td --threads-draft", "N", None, DRAFT),
    ("-hff --hf-file -dr --docker-repo", "N", None, FILE),
    ("-hft --hf-token", "N", None, "set HF_TOKEN"),
    ("--server-base --host --port --api-key", "N", None, "pyllm run answers at the terminal"),
    ("--ppl-stride", "N", "0", "windows follow each other here"),
    ("--ppl-output-type", "N", "0", "--json prints all figures"),
    ("--kl-divergence --hellaswag --winogrande --multiple-choice", "", None, "--kl compares with an f32 cache"),
    ("--kl-divergence-base --save-all-logits --logits-file", "N", None, "--kl compares with an f32 cache"),
    ("--hellaswag-tasks --winogrande-tasks --multiple-choice-tasks", "N", None, "leave it out"),
    ("-embd --embeddings", "[0|1]", "0", "leave it out"),
)  # fmt: skip
