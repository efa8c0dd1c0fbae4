"""The demo: a compact model against the dense model it was distilled and pruned from."""

from .estimate import estimated_seconds as estimated_seconds
from .models import demo_recipe as demo_recipe
from .run import run as run
from .run import run_training as run_training
