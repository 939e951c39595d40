"""EasyOCR's recogniser of generation 2: VGG, two bidirectional LSTM, linear (arXiv 1507.05717).

Attributes bear the names of EasyOCR's `english_g2.pth`, so that file loads as it is. Knows nothing
of alphabets: class 0 is CTC's blank, what the others mean is its user's business.

Shapes: B = lines, W = width of a line of 64 px, T = W / 4 - 1 columns, C = features, V = classes.
"""

from __future__ import annotations

from torch import Tensor, nn

LINE_HEIGHT = 64
WIDTH = 256
"""Features per column, and of each direction of an LSTM."""
MIN_LINE_WIDTH = 8
"""Narrower lines leave no column."""


class Crnn(nn.Module):
    """The graph.

    Example:
        (logits_BTV,) = Crnn(classes=97)(pixels_B1HW)
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.FeatureExtraction = Columns()
        self.SequenceModeling = nn.Sequential(Context(), Context())
        self.Prediction = nn.Linear(WIDTH, classes)

    def forward(self, pixels_B1HW: Tensor) -> tuple[Tensor]:
        features_BCHT = self.FeatureExtraction(pixels_B1HW)
        # Averaging over a height of 3: what adaptive pooling to a height of one does.
        columns_BTC = features_BCHT.mean(dim=2).transpose(1, 2)
        return (self.Prediction(self.SequenceModeling(columns_BTC)),)


class Columns(nn.Module):
    """A line of 64 px to features of height 3, a quarter as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.ConvNet = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(128, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            nn.MaxPool2d((2, 1)),
            *(nn.Conv2d(WIDTH, WIDTH, 2), nn.ReLU()),
        )

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        return self.ConvNet(pixels_B1HW)


class Context(nn.Module):
    """Lets each column see those to its left and right."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, WIDTH, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, columns_BTC: Tensor) -> Tensor:
        return self.linear(self.rnn(columns_BTC)[0])
