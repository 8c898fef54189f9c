"""Records by shape: what a line of a data set means, found by looking at it, and read as a stream.

`records` defines the shapes, `detect` finds the shape of a file and the columns that it takes, `read` streams the
records and reports what does not fit. What is wrong with records that do fit (duplicates, repeated turns) is not judged
here.

    from zhixing.data import shapes
    found = shapes.detect("train.json")          # Detection(shape="chat", layout="alpaca", ...)
    for placed in shapes.read(["train.json"]):   # Placed(record, source, line)
        ...
"""

from zhixing.data.shapes.detect import Detection, detect
from zhixing.data.shapes.read import Reading, read
from zhixing.data.shapes.records import (
    SHAPES,
    Answer,
    Chat,
    ImageText,
    Labelled,
    Message,
    Pair,
    Placed,
    Preference,
    Question,
    Record,
    Shape,
    Tagged,
    Text,
    ToolCall,
    UnpairedPreference,
)

__all__ = [
    "SHAPES",
    "Answer",
    "Chat",
    "Detection",
    "ImageText",
    "Labelled",
    "Message",
    "Pair",
    "Placed",
    "Preference",
    "Question",
    "Reading",
    "Record",
    "Shape",
    "Tagged",
    "Text",
    "ToolCall",
    "UnpairedPreference",
    "detect",
    "read",
]
