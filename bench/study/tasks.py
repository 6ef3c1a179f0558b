"""The tasks of a study: prompts whose answers a text or a rule gives, as tokens; scores nothing.

Small models fail many of these tasks. What counts is how the probability of the answer changes with the cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from ...models.text.tokenizer import Tokenizer
from .texts import Sources


@dataclass(frozen=True)
class Sample:
    """A prompt and the answer whose probability is measured, token by token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.answer


@dataclass(frozen=True)
class Task:
    """A kind of question. `make(sources, tokenizer, n_ctx, rng)` yields samples, of which some may be too long."""

    name: str
    make: Callable[[Sources, Tokenizer, int, random.Random], Iterator[Sample]]
    fills: bool = True  # whether its samples are as long as the context


def samples(task: Task, sources: Sources, tokenizer: Tokenizer, n_ctx: int, seed: int, count: int) -> list[Sample]:
    """Return the first `count` samples that fit in n_ctx tokens, the same for the same seed; none if none fits."""
    made = task.make(sources, tokenizer, n_ctx, random.Random(f"{seed} {task.name} {n_ctx}"))
    fitting = (sample for sample in islice(made, 20 * count) if len(sample.tokens) <= n_ctx)
    return list(islice(fitting, count))


def _sample(tokenizer: Tokenizer, prompt: str, answer: str) -> Sample:
    return Sample(tuple(tokenizer.encode(prompt, bos=True)), tuple(tokenizer.encode(answer)))


def _prose(sources: Sources, tokenizer: Tokenizer, n_ctx: int, rng: random.Random) -> Iterator[Sample]:
    """Yield llama-perplexity's windows; the second half is the answer."""
    tokens = tokenizer.encode(sources.prose, bos=True)
    for start in range(0, len(tokens) - n_ctx + 1, n_ctx):
        window = tokens[start : start + n_ctx]
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            window[0] = tokenizer.bos_id
        yield Sample(tuple(window[: n_ctx // 2 + 1]), tuple(window[n_ctx // 2 + 1 :]))


def _questions(sources: Sources, tokenizer: Tokenizer, n_ctx: int, rng: random.Random) -> Iterator[Sample]:
    """Yield short questions with one answer: BIG-Bench Hard's if the sources have them, else generated ones."""
    asked = [(f"{q}\nAnswer:", f" {a}") for q, a in sources.questions] or [_comparison(rng) for _ in range(200)]
    yield from _shuffled(asked, tokenizer, rng, longest=128)


def _comparison(rng: random.Random) -> tuple[str, str]:
    names = rng.sample(NAMES, 3)
    older, younger = rng.sample(range(20, 80), 2), rng.choice((True, False))
    first, second = sorted(older, reverse=True)
    middle = (first + second) // 2
    facts = [f"{names[0]} is {first} years old.", f"{names[1]} is {middle}.", f"{names[2]} is {second}."]
    rng.shuffle(facts)
    question = "youngest" if younger else "oldest"
    return f"{' '.join(facts)} Who is the {question}?\nAnswer:", f" {names[2] if younger else names[0]}"


def _sums(sources: Sources, tokenizer: Tokenizer, n_ctx: int, rng: random.Random) -> Iterator[Sample]:
    """Yield worked sums: GSM8K's if the sources have them, else chains of steps. The whole working is the answer."""
    asked = [(f"Question: {q}\nAnswer:", f" {a}") for q, a in sources.sums] or [_chain(rng) for _ in range(200)]
    yield from _shuffled(asked, tokenizer, rng, longest=512)


def _shuffled(
    asked: list[tuple[str, str]], tokenizer: Tokenizer, rng: random.Random, *, longest: int
) -> Iterator[Sample]:
    """Yield the questions in random order, without those of more than `longest` tokens."""
    rng.shuffle(asked)
    samples = (_sample(tokenizer, prompt, answer) for prompt, answer in asked)
    return (sample for sample in samples if len(sample.tokens) <= longest)


def _chain(rng: random.Random) -> tuple[str, str]:
    total = rng.randint(10, 99)
    story, work = [f"{rng.choice(NAMES)} has {total} {rng.choice(THINGS)}."], []
    for i in range(8):
        n, more = rng.randint(2, 30), i % 2 == 0
        story.append(f"Then {n} {'more come' if more else 'are taken away'}.")
        after = total + n if more else total - n
        work.append(f"{total} {'+' if more else '-'} {n} = {after}.")
        total = after
    return f"Question: {' '.join(story)} How many are there now?\nAnswer:", f" {' '.join(work)} #### {total}"


def _passkey(sources: Sources, tokenizer: Tokenizer, n_ctx: int, rng: random.Random) -> Iterator[Sample]:
    """Yield a number somewhere in filler, asked for at the end."""
    filler = tokenizer.encode(FILLER)
    while True:
        key = str(rng.randint(10_000, 99_999))
        hidden = tokenizer.encode(f" The pass key is {key}. Remember it: {key} is the pass key.")
        ask, answer = tokenizer.encode(" What is the pass key? The pass key is"), tokenizer.encode(f" {key}.")
        head = tokenizer.encode("There is a pass key hidden in this text. Find it and memorize it.", bos=True)
        room = n_ctx - len(head) - len(hidden) - len(ask) - len(answer)
        pages = list(islice(cycle(filler), max(room, 0)))
        at = rng.randint(0, len(pages) // len(filler)) * len(filler)
        yield Sample((*head, *pages[:at], *hidden, *pages[at:], *ask), tuple(answer))


def _dictionary(sources: Sources, tokenizer: Tokenizer, n_ctx: int, rng: random.Random) -> Iterator[Sample]:
    """Yield many lines of a key and its value, then one of the keys again; its value is the answer."""
    while True:
        lines: list[tuple[str, str]] = []
        tokens = tokenizer.encode("Each name has a number.\n", bos=True)
        while True:
            key, value = f"{rng.choice(NAMES)}-{rng.randint(100, 999)}", str(rng.randint(1000, 9999))
            line = tokenizer.encode(f"{key}: {value}\n")
            if len(tokens) + len(line) + 16 > n_ctx:
                break
            lines.append((key, value))
            tokens += line
        key, value = rng.choice(lines or [("", "")])
        yield Sample((*tokens, *tokenizer.encode(f"{key}:")), tuple(tokenizer.encode(f" {value}")))


def _copy(sources: Sources, tokenizer: Tokenizer, n_ctx: int, rng: random.Random) -> Iterator[Sample]:
    """Yield random words twice; the end of the second copy is the answer."""
    while True:
        words: list[int] = []
        while len(words) < n_ctx // 2 - 2:
            words += tokenizer.encode(f" {rng.choice(NAMES + THINGS)}")
        half = words[: n_ctx // 2 - 2]
        start = tokenizer.encode("\n", bos=True)
        scored = min(64, len(half) // 2)  # tokens at the end
        yield Sample((*start, *half, *start[-1:], *half[:-scored]), tuple(half[-scored:]))


NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo", "Mary",
         "Noah", "Olga", "Paul", "Rose", "Sam", "Tom", "Vera")  # fmt: skip
THINGS = ("apples", "books", "boats", "coins", "cups", "dogs", "flowers", "horses", "lamps", "letters", "pens",
          "plates", "ships", "stones", "trees", "wheels")  # fmt: skip
FILLER = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

TASKS = {
    task.name: task
    for task in (
        Task("prose", _prose),
        Task("questions", _questions, fills=False),
        Task("sums", _sums, fills=False),
        Task("passkey", _passkey),
        Task("dictionary", _dictionary),
        Task("copy", _copy),
    )
}
