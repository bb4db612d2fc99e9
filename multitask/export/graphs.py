"""What each ONNX file computes: an embedding, or a task's head. Rows are padded on the right, with id 0 and mask 0.

Shapes: B rows, T tokens, H the encoder's hidden size; both sentences of a pair have their own T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multitask.bundle.bundle import Bundle
from multitask.model.bert import MiniBert
from multitask.model.encoding import POOLINGS, Encoding
from multitask.model.heads import BiLstmHead
from multitask.model.multitask import text_means
from multitask.tasks.labels import KINDS, LabelSpec, unit_of


class Graph(nn.Module):
    """The encoder in its plain form: the packed one and the fused kernel decide by what the data are."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.encoder = MiniBert(bundle.config, attention="explicit")
        self.encoder.load_state_dict(bundle.model(heads={}).encoder.state_dict())
        self.pooling = bundle.pooling

    def encoded(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor | None = None) -> Encoding:
        mask = attention_mask.bool()
        states = self.encoder(input_ids, mask, segments=segments)
        return Encoding(POOLINGS[self.pooling](self.encoder, states, mask), states, mask)


class EmbeddingGraph(Graph):
    """Ids and mask of B sentences -> (B, H) embeddings of length 1."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize(self.encoded(input_ids, attention_mask).sentence, dim=1)


class TaskGraph(Graph):
    """Ids and mask of each of a task's texts -> what its head puts out, (B, classes) or (B,)."""

    def __init__(self, bundle: Bundle, task: str) -> None:
        bundle = bundle.of_task(task)
        super().__init__(bundle)
        head = bundle.model().heads[task]
        self.head = UnpackedBiLstm(head) if isinstance(head, BiLstmHead) else head


class SentenceGraph(TaskGraph):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoded(input_ids, attention_mask))
        return outputs


class PairGraph(TaskGraph):
    def forward(
        self,
        first_input_ids: Tensor,
        first_attention_mask: Tensor,
        second_input_ids: Tensor,
        second_attention_mask: Tensor,
    ) -> Tensor:
        first = self.encoded(first_input_ids, first_attention_mask)
        outputs: Tensor = self.head(first, self.encoded(second_input_ids, second_attention_mask))
        return outputs


class JoinedGraph(TaskGraph):
    """Ids and mask of sequences that hold both texts of a joined pair -> what the task's head puts out."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoding = self.encoded(input_ids, attention_mask)
        halves = text_means(encoding, input_ids).chunk(2, dim=1)
        outputs: Tensor = self.head(*(Encoding(half, half, encoding.mask) for half in halves))
        return outputs


class SegmentsGraph(TaskGraph):
    """Ids, mask and segments of sequences that hold both texts of a joined pair -> what the task's head puts out."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoded(input_ids, attention_mask, token_type_ids))
        return outputs


class UnpackedBiLstm(nn.Module):
    """A BiLstmHead without packed sequences, which ONNX has not: the same numbers from an LSTM a direction. The
    backward one reads each sentence turned round within its own length; of both, the state after its last token counts.
    """

    def __init__(self, head: BiLstmHead) -> None:
        super().__init__()
        self.dense = head.dense
        self.forwards, self.backwards = one_way(head.lstm, ""), one_way(head.lstm, "_reverse")

    def forward(self, side: Encoding) -> Tensor:
        lengths_B1 = side.mask.sum(dim=1, keepdim=True).clamp(min=1)
        turned_BT1 = (lengths_B1 - 1 - torch.arange(side.tokens.shape[1])).clamp(min=0)[:, :, None]
        turned_BTH = side.tokens.gather(1, turned_BT1.expand(-1, -1, side.tokens.shape[2]))
        ends = [
            lstm(tokens)[0].gather(1, (lengths_B1 - 1)[:, :, None].expand(-1, 1, lstm.hidden_size)).squeeze(1)
            for lstm, tokens in ((self.forwards, side.tokens), (self.backwards, turned_BTH))
        ]
        outputs: Tensor = self.dense(torch.cat(ends, dim=1))
        return outputs


def one_way(lstm: nn.LSTM, suffix: str) -> nn.LSTM:
    """One direction of a bidirectional LSTM, with its weights."""
    made = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True)
    made.load_state_dict({name: getattr(lstm, name + suffix) for name in made.state_dict()})
    return made


@dataclass(frozen=True)
class Output:
    """What an ONNX file puts out.

    name: in the graph. unit: what the numbers are. label: how they become a label.
    """

    name: str
    unit: str
    label: str


EMBEDDING = Output("embeddings", "vectors of length 1: their dot product is the cosine", "")


def output_of(label: LabelSpec) -> Output:
    kind, cuts = KINDS[label.kind], ", ".join(f"{cut:.9g}" for cut in label.cuts)
    becomes = kind.becomes.format(low=label.low, high=label.high, cuts=cuts)
    return Output("logits" if kind.probability else "score", unit_of(label), becomes)


Inputs = tuple[tuple[str, ...], ...]  # the names for each sequence of an example: of its ids, its mask, its segments

IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
ONE: Inputs = ((IDS, MASK),)
TYPED: Inputs = ((IDS, MASK, SEGMENTS),)
TWO: Inputs = tuple((f"{side}_{IDS}", f"{side}_{MASK}") for side in ("first", "second"))
# (text columns, joined, with segments) -> what computes such a task, and its inputs' names.
GRAPHS: dict[tuple[int, bool, bool], tuple[type[TaskGraph], Inputs]] = {
    (1, False, False): (SentenceGraph, ONE),
    (2, False, False): (PairGraph, TWO),
    (2, True, False): (JoinedGraph, ONE),
    (2, True, True): (SegmentsGraph, TYPED),
}


@dataclass(frozen=True)
class GraphPlan:
    """One file to make. inputs: the graph's, by sequence. columns: what its texts are called."""

    graph: Graph
    inputs: Inputs
    output: Output
    columns: tuple[str, ...]
    joined: bool = False


def plan_of(bundle: Bundle, name: str) -> GraphPlan:
    """The plan of the file of that name: `embedding`, or a task that has a head."""
    if name == "embedding":
        return GraphPlan(EmbeddingGraph(bundle), ONE, EMBEDDING, ("text",))
    spec = bundle.specs[name]
    if spec.segments and bundle.config.type_vocab_size == 1:  # its encoder is given all as one segment
        return GraphPlan(SentenceGraph(bundle, name), ONE, output_of(spec.label), spec.columns, joined=True)
    made, inputs = GRAPHS[len(spec.columns), spec.joined, spec.segments]
    return GraphPlan(made(bundle, name), inputs, output_of(spec.label), spec.columns, spec.joined)
