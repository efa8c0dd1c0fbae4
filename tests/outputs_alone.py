"""A model of recurrent layers alone."""

from torch import nn


class OutputsAlone(nn.Module):
    """What `rnn` gives at every step, without its last states."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0]
