"""What a task is, and the TASKS table of the built-in ones. A user's own tasks are made by own.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from multitask.tasks.labels import KINDS, RANKINGS, LabelSpec, Metric

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class TaskSpec:
    """One data set with its columns, label, metric, default head and file names.

    columns: the text columns, one for a sentence task, two for a pair task.
    files: the file stem of each split inside a data directory (CS224N names); any known ending will do.
    prediction: the stem of the task's prediction files and the title of their label column (CS224N formats).
    joined: both texts are one sequence, [CLS] first [SEP] second [SEP], for the encoder (a cross-encoder).
    segments: a joined pair's texts are two segments, as BERT was pre-trained (Devlin et al., 2019, section 3.1), and
        the head gets the sequence's pooled encoding. Without, all is the first segment, and the head gets the mean of
        each text's states.
    """

    name: str
    columns: tuple[str, ...]
    label: LabelSpec
    metric: Metric
    head: str
    files: Mapping[Split, str]
    prediction: tuple[str, str]
    joined: bool = False
    segments: bool = False

    @property
    def sentences(self) -> int:
        """How many sequences of an example the encoder sees."""
        return 1 if self.joined else len(self.columns)

    @property
    def pairing(self) -> str:
        """How the encoder reads its pairs, in a word or two."""
        return "separate" if not self.joined else "joined" if self.segments else "joined (without segments)"

    @property
    def by_text(self) -> bool:
        """Whether the head gets the mean of each text's states out of one sequence."""
        return self.joined and not self.segments

    @property
    def sides(self) -> int:
        """How many vectors of an example its head gets."""
        return 1 if self.segments else len(self.columns)

    def facts(self) -> dict[str, Any]:
        """All that tells how its files are read, as plain data, of which names of caches are made; words and segments
        only where there are some."""
        found = asdict(self)
        del found["label"]["thresholds"]
        if not self.segments:
            del found["segments"]
        if not self.label.words:
            del found["label"]["words"]
        return found

    @property
    def ranks(self) -> bool:
        """Whether its pairs have questions: the first text, told by its tokens, asks, and a greater label of the second
        one says more."""
        return len(self.columns) == 2 and not self.by_text and RANKINGS[0] in KINDS[self.label.kind].metrics

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The built-in metrics that it can be measured by."""
        found = KINDS[self.label.kind].metrics
        return found if self.ranks else tuple(metric for metric in found if metric not in RANKINGS)

    @property
    def metric_key(self) -> str:
        """The metric's name in results, `sst/accuracy` say."""
        return f"{self.name}/{self.metric}"


PAIR = ("sentence1", "sentence2")

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="sst",
            columns=("sentence",),
            label=LabelSpec("classes", "sentiment", 0, 4),
            metric="accuracy",
            head="linear",
            files={"train": "ids-sst-train", "dev": "ids-sst-dev", "test": "ids-sst-test-student"},
            prediction=("sst", "Predicted_Sentiment"),
        ),
        TaskSpec(
            name="cfimdb",
            columns=("sentence",),
            label=LabelSpec("classes", "sentiment", 0, 1),
            metric="accuracy",
            head="linear",
            files={
                "train": "ids-cfimdb-train",
                "dev": "ids-cfimdb-dev",
                "test": "ids-cfimdb-test-student",
            },
            prediction=("cfimdb", "Predicted_Sentiment"),
        ),
        TaskSpec(
            name="quora",
            columns=PAIR,
            label=LabelSpec("binary", "is_duplicate", 0, 1, similar=1),
            metric="accuracy",
            head="linear",
            files={"train": "quora-train", "dev": "quora-dev", "test": "quora-test-student"},
            prediction=("para", "Predicted_Is_Paraphrase"),
        ),
        TaskSpec(
            name="sts",
            columns=PAIR,
            label=LabelSpec("score", "similarity", 0, 5, similar=4),
            metric="pearson",
            head="cosine",
            files={"train": "sts-train", "dev": "sts-dev", "test": "sts-test-student"},
            prediction=("sts", "Predicted_Similiary"),  # the handout's own spelling
        ),
        # BERT as a Recruiter: multitask/recruit/pairs.py makes these files from postings.
        TaskSpec(
            name="jobs",  # a title, and a posting without it
            columns=PAIR,
            label=LabelSpec("score", "match", 0, 1, similar=1),
            metric="pearson",
            head="cosine",
            files={"train": "jobs-train", "dev": "jobs-dev", "test": "jobs-test"},
            prediction=("jobs", "Predicted_Match"),
        ),
        TaskSpec(
            name="skills",  # a posting's qualifications, and the posting without them
            columns=PAIR,
            label=LabelSpec("score", "match", 0, 1, similar=1),
            metric="pearson",
            head="cosine",
            files={"train": "skills-train", "dev": "skills-dev", "test": "skills-test"},
            prediction=("skills", "Predicted_Match"),
        ),
        TaskSpec(
            name="suitability",  # bertaar.txt, section 3
            columns=("job", "application"),
            label=LabelSpec("probability", "score", 0, 1),
            metric="pearson",
            head="interaction",
            files={"train": "suitability-train", "dev": "suitability-dev", "test": "suitability-test"},
            prediction=("suitability", "Predicted_Suitability"),
            joined=True,
        ),
    )
}
