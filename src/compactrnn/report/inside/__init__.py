"""See inside: what the recurrent layers of a trained model do on one sequence."""

from .see import see_inside as see_inside
from .view import LayerView as LayerView
