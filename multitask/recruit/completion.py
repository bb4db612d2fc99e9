"""Role completion: the likeliest titles of a description, by the masked-language head of a bundle that the objective
`completion` has trained (bertaar.txt, 9)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from multitask.bundle.bundle import Bundle
from multitask.errors import UserError
from multitask.inference.embed import TextEncoder
from multitask.measure.bootstrap import mean_interval
from multitask.objectives.completion import MOST, Prompt
from multitask.recruit.index import COMPLETION

BEAM = 4  # open titles that are followed, where not more of them are wanted


@dataclass(frozen=True)
class Title:
    """A title that completes a description.

    probability: that the model gives to this title among all texts of at most MOST tokens. Those of some titles add up
    to less than 1. The model's own and not calibrated: it ranks titles, and is no share of being right.
    """

    text: str
    probability: float


@dataclass(frozen=True)
class Partial:
    """The first tokens of an answer, and their log-probability."""

    ids: tuple[int, ...]
    score: float


class Completer:
    """A bundle's masked-language head as it completes descriptions. Dropout is off."""

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu") -> None:
        """Raises UserError where the bundle has no masked-language head."""
        if bundle.mlm is None:
            name = bundle.about.get("trainer") or bundle.about.get("encoder", "")
            raise UserError(
                f"bundle '{name}': no masked-language head to complete roles with; "
                "a stage with objective: completion makes one (recipe recruiter/all)"
            )
        self.device = torch.device(device)
        self.model = bundle.model(heads={}, mlm=bundle.mlm).to(self.device).eval()
        self.tokenizer = bundle.tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.prompt = Prompt.of(self.tokenizer, bundle.max_length)
        self._first, self._later = (
            barred.to(self.device) for barred in _barred(self.tokenizer, self.prompt, bundle.config.vocab_size)
        )

    def complete(self, descriptions: Sequence[str], k: int = 5) -> list[list[Title]]:
        """The k likeliest titles of each description that a beam finds, likeliest first; none is empty."""
        encoded = self.tokenizer.encode_batch_fast(list(descriptions), add_special_tokens=False)
        return [self._titles(encoding.ids, k) for encoding in encoded]

    def _titles(self, description: Sequence[int], k: int) -> list[Title]:
        """A beam over the masks, left to right. A longer text is never likelier than its beginning: what is open and
        below the k best that have ended is dropped, and nothing that the beam would give is lost."""
        found: dict[str, float] = {}
        beam, ended = [Partial((), 0.0)], list[Partial]()
        while beam:
            grown = self._grown(beam, description, width := max(k, BEAM))
            ended += [partial for partial in grown if self._has_ended(partial)]
            ended = sorted(ended, key=lambda partial: -partial.score)[:k]
            bar = ended[-1].score if len(ended) == k else float("-inf")
            beam = [partial for partial in grown if partial.score > bar and not self._has_ended(partial)][:width]
        for partial in ended:
            text = self.tokenizer.decode(list(partial.ids))  # drops [SEP]; two ways to spell a text are one title
            found[text] = found.get(text, 0.0) + float(torch.tensor(partial.score).exp())
        return [Title(*item) for item in sorted(found.items(), key=lambda item: -item[1])]

    def _has_ended(self, partial: Partial) -> bool:
        return len(partial.ids) == MOST or partial.ids[-1] == self.prompt.end

    @torch.inference_mode()
    def _grown(self, beam: Sequence[Partial], description: Sequence[int], width: int) -> list[Partial]:
        """The likeliest ways to go on from the open beginnings, likeliest first: `width` that stay open are
        among them."""
        place = len(beam[0].ids)
        ids = torch.tensor([self.prompt.ids(partial.ids, description) for partial in beam], device=self.device)
        states = self.model.encoder(ids, torch.ones_like(ids))[:, len(self.prompt.before) + place]
        assert self.model.mlm is not None
        logits: Tensor = self.model.mlm(states, self.model.encoder.embeddings.word_embeddings.weight)
        scores = logits.log_softmax(dim=1).masked_fill(self._later if place else self._first, float("-inf"))
        total = scores + torch.tensor([partial.score for partial in beam], device=self.device)[:, None]
        best, places = total.flatten().topk(width + len(beam))  # each of the beam ends in one way
        return [
            Partial((*beam[at // total.shape[1]].ids, at % total.shape[1]), score)
            for score, at in zip(best.tolist(), places.tolist(), strict=True)
            if score > float("-inf")
        ]


def _barred(tokenizer: Tokenizer, prompt: Prompt, size: int) -> tuple[Tensor, Tensor]:
    """(size,) bool twice: the tokens that no title begins with, and the tokens that do not follow in one either.

    A title begins with a word that has a letter or a digit, so none is empty or punctuation alone. size: the encoder's
    vocabulary, which may have room for more tokens than the tokenizer has.
    """
    tokens = [tokenizer.id_to_token(index) or "[unused]" for index in range(size)]
    unreal = [index in prompt.special or token.startswith("[unused") for index, token in enumerate(tokens)]
    first = [
        bad or token.startswith("##") or not any(map(str.isalnum, token))
        for bad, token in zip(unreal, tokens, strict=True)
    ]
    unreal[prompt.end] = False
    return torch.tensor(first), torch.tensor(unreal)


Pair = tuple[str, str]  # a title, and the posting without it


@dataclass(frozen=True)
class Row:
    """A mean over `rows` held-out postings, in 0..1, with its 95 % bootstrap interval."""

    method: str
    metric: str
    value: float
    interval: tuple[float, float]
    rows: int


def measure_titles(completer: Completer, encoder: TextEncoder, train: Sequence[Pair], dev: Sequence[Pair]) -> list[Row]:
    """Exact match and token F1 of the first title; beside it two that need no completion: the commonest title of
    train, and the title of the train posting whose text is nearest by `encoder`. Both sequences need a pair."""
    nearest = (encoder.embed([text for _, text in dev]) @ encoder.embed([text for _, text in train]).T).argmax(axis=1)
    guesses = {
        COMPLETION: [titles[0].text for titles in completer.complete([text for _, text in dev], k=1)],
        "nearest posting": [train[at][0] for at in nearest.tolist()],
        "commonest title": [commonest([title for title, _ in train])] * len(dev),
    }
    rows = []
    for method, titles in guesses.items():
        pairs = [(guess, wanted) for guess, (wanted, _) in zip(titles, dev, strict=True)]
        for metric, of in {"exact match": exact_match, "token F1": token_f1}.items():
            scores = np.array([of(*pair) for pair in pairs])
            rows.append(Row(method, metric, float(scores.mean()), mean_interval(scores, shares=True), len(dev)))
    return rows


def commonest(titles: Sequence[str]) -> str:
    """The most frequent title, written the way its first occurrence is."""
    most = Counter(tuple(words(title)) for title in titles).most_common(1)[0][0]
    return next(title for title in titles if tuple(words(title)) == most)


def words(text: str) -> list[str]:
    """Letters and digits in runs, without case, accents and punctuation: an uncased tokenizer keeps none of them."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return re.findall(r"\w+", plain.casefold())


def exact_match(guess: str, wanted: str) -> float:
    """1 where two titles are equal words in equal order, else 0."""
    return float(words(guess) == words(wanted))


def token_f1(guess: str, wanted: str) -> float:
    """The harmonic mean of precision and recall of two titles' words, as SQuAD counts it (Rajpurkar et al., 2016)."""
    mine, theirs = words(guess), words(wanted)
    common = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs)) if common else 0.0
